package drain

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/net/http2"
)

// agent takes every request and never answers. It speaks HTTP by the byte and by the frame: net/http's server, with thousands of open streams on
// a connection, looks through all of them for each frame, and that would be measured with the sidecar.
func agent(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		serving.Go(func() {
			defer conn.Close()
			end := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer end()
			keep(conn)
		})
	}
}

// keep reads what comes until the other side has had enough.
func keep(conn net.Conn) {
	in := bufio.NewReader(conn)
	if preface, err := in.Peek(len(http2.ClientPreface)); err != nil || string(preface) != http2.ClientPreface {
		_, _ = io.Copy(io.Discard, in)
		return
	}
	_, _ = in.Discard(len(http2.ClientPreface)) // it is buffered
	f := http2.NewFramer(conn, in)
	if f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 20_000}) != nil {
		return
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = f.WritePing(true, frame.Data)
			}
		}
		if err != nil {
			return
		}
	}
}
