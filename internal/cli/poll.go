package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
)

// pollEvery is how often a watch asks where the server cannot tell of changes: what runs is known to it but stored nowhere.
const pollEvery = time.Second

// poll reads and prints once, or with watch at every change until ctx ends, which is the normal end. It outlives a restart of the control plane.
func poll[T proto.Message](ctx context.Context, a *app, c *conn, watch bool, format string, read func(context.Context) (T, error), show func(T)) error {
	var shown proto.Message
	for {
		got, err := read(ctx)
		_, away := errors.AsType[*unreachableError](err)
		switch {
		case watch && ctx.Err() != nil:
			return nil
		case watch && away && shown != nil:
			fmt.Fprintf(a.env.Stderr, "specctl: %s, trying again\n", unanswering(len(c.servers)))
		case err != nil:
			return err
		case shown == nil || a.env.Terminal || !proto.Equal(shown, got):
			if err := a.printPolled(got, watch, format, func() { show(got) }); err != nil {
				return err
			}
			shown = got
		}
		if !watch || !pause(ctx, pollEvery) {
			return nil
		}
	}
}

func (a *app) printPolled(got proto.Message, watch bool, format string, show func()) error {
	switch {
	case format == asJSON && watch:
		return a.out.jsonLine(got)
	case format == asJSON:
		return a.out.json(got)
	case watch && a.env.Terminal:
		fmt.Fprint(a.env.Stdout, "\x1b[H\x1b[J")
	}
	show()
	if watch && !a.env.Terminal {
		a.out.line("")
	}
	return nil
}
