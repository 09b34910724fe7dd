package fanout

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/specproxy/specproxy/bench/rig"
)

const (
	// perSecond is how many specs are published in a second, and spare how many there are to be published: enough for as long as the flips take.
	perSecond, spare, publishersAtOnce = 100, 6_000, 16
	// amid is how many streams there are then, stretches how often some flips in quiet are followed by as many during publication.
	amid, stretches, stretchFlips = 1_000, 5, 30
	// apart are two flips, so that they fall anywhere between two publications.
	apart = 20 * time.Millisecond
)

// Publishing is one flip with or without other specs being published.
type Publishing struct {
	Published bool `json:"published"`
	Flip
	// PerSecond is how many specs a second were published in that time.
	PerSecond float64 `json:"perSecond"`
}

// publish flips in quiet, and while others publish, in turns.
func (s *Samples) publish(ctx context.Context, o Options) error {
	var stack rig.Stack
	defer stack.Stop()
	dir := filepath.Join(o.Dir, "publishing")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	unborn := make([]string, spare)
	for i := range unborn {
		unborn[i] = rig.Seeded(i)
	}
	p, err := startPlane(ctx, o, &stack, dir, unborn)
	if err != nil {
		return err
	}
	if _, err := p.connect(ctx, o, &stack, dir, amid); err != nil {
		return err
	}
	fmt.Fprintf(o.Progress, "fanout: measuring %d flips while %d specs a second are published, and as many without\n", stretches*stretchFlips, perSecond)
	for range stretches {
		for _, published := range []bool{false, true} {
			if err := s.stretch(ctx, p, published, &unborn); err != nil {
				return err
			}
		}
	}
	return nil
}

// stretch is some flips in a row.
func (s *Samples) stretch(ctx context.Context, p *plane, published bool, unborn *[]string) error {
	began, before := time.Now(), len(*unborn)
	publishing, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		if published {
			ended <- p.publish(publishing, unborn)
		} else {
			ended <- nil
		}
	}()
	var flips []Flip
	var failed error
	for range stretchFlips {
		f, err := p.once(ctx)
		if err != nil {
			failed = err
			break
		}
		flips = append(flips, f)
		if failed = rig.Rest(ctx, apart); failed != nil {
			break
		}
	}
	took := time.Since(began)
	stop()
	if err := errors.Join(failed, <-ended); err != nil {
		return err
	}
	for _, f := range flips {
		s.Publishing = append(s.Publishing, Publishing{Published: published, Flip: f, PerSecond: float64(before-len(*unborn)) / took.Seconds()})
	}
	return nil
}

// publish publishes at the rate until ctx ends, several at a time, since each waits for the disk.
func (p *plane) publish(ctx context.Context, unborn *[]string) error {
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	publishers, all := errgroup.WithContext(context.WithoutCancel(ctx))
	publishers.SetLimit(publishersAtOnce)
	for {
		select {
		case <-tick.C:
		case <-all.Done():
			return publishers.Wait()
		case <-ctx.Done():
			return publishers.Wait()
		}
		if len(*unborn) == 0 {
			return errors.Join(publishers.Wait(), errors.New("no spec is left to be published"))
		}
		name := (*unborn)[0]
		*unborn = (*unborn)[1:]
		publishers.Go(func() error { return rig.Publish(all, p.control, name, rig.SeededVersion) })
	}
}
