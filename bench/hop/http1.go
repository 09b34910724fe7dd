package hop

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// headers are those that a proxy before the sidecar sends.
const headers = "Host: measured.agents\r\nUser-Agent: hop/1\r\nAccept: */*\r\nX-Forwarded-Proto: http\r\nX-Request-Id: 5d1a2f6e-6c55-4c3c-9b43-5a7f5c3a1c11\r\n" +
	"X-Spec-Route: 7\r\nX-Spec-Buffer: 1048576\r\n"

const (
	smallBody = 128
	bigBody   = 1 << 20
)

// small is a GET and a POST of a small body in turns.
var small = [][]byte{
	[]byte("GET /small HTTP/1.1\r\n" + headers + "\r\n"),
	[]byte("POST /small HTTP/1.1\r\n" + headers + "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(smallBody) + "\r\n\r\n" + strings.Repeat("x", smallBody)),
}

// big sends a large body and gets it back.
var big = [][]byte{append([]byte("POST /echo HTTP/1.1\r\n"+headers+"Content-Length: "+strconv.Itoa(bigBody)+"\r\n\r\n"), make([]byte, bigBody)...)}

// http1 keeps connections busy with the requests in turns, until end. With a pause, each connection sends one request in every pause.
func http1(ctx context.Context, address string, connections int, requests [][]byte, pause time.Duration, begin, end time.Time) (int, []time.Duration, error) {
	all := newTally(connections)
	for i := range connections {
		all.Go(func(t *tally) error {
			c, err := dial(ctx, address, end)
			if err != nil {
				return err
			}
			defer c.Close()
			return c.exchange(ctx, t, requests, i, pause, begin, end)
		})
	}
	return all.wait()
}

func (c *wire) exchange(ctx context.Context, t *tally, requests [][]byte, turn int, pause time.Duration, begin, end time.Time) error {
	next := time.Now().Add(pause * time.Duration(turn%8) / 8)
	for ; ; turn++ {
		if pause > 0 {
			if err := until(ctx, next); err != nil {
				return err
			}
			next = next.Add(pause)
		}
		sent := time.Now()
		if sent.After(end) {
			return nil
		}
		request := requests[turn%len(requests)]
		if _, err := c.Write(request); err != nil {
			return err
		}
		if err := c.response(); err != nil {
			return err
		}
		if now := time.Now(); sent.After(begin) && now.Before(end) {
			t.count++
			if pause > 0 {
				t.delays = append(t.delays, now.Sub(sent))
			}
		}
	}
}

// wire is a client's connection.
type wire struct {
	net.Conn
	r *bufio.Reader
}

// dial connects; nothing may take much longer than until end.
func dial(ctx context.Context, address string, end time.Time) (*wire, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &wire{conn, bufio.NewReaderSize(conn, 16<<10)}, conn.SetDeadline(end.Add(20 * time.Second))
}

// response reads one that must be a 200 of stated length.
func (c *wire) response() error {
	length := -1
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")):
			return fmt.Errorf("answer: %q", line)
		case len(line) == 0:
			if length < 0 {
				return fmt.Errorf("answer: no length")
			}
			_, err := io.CopyN(io.Discard, c.r, int64(length))
			return err
		case len(line) > 16 && bytes.EqualFold(line[:16], []byte("content-length: ")):
			if length, err = strconv.Atoi(string(line[16:])); err != nil {
				return err
			}
		}
	}
}

// tally is what one client counts; tallies are those of all.
type tally struct {
	count  int
	delays []time.Duration
	err    error
}

type tallies struct {
	wg  sync.WaitGroup
	all []tally
	n   int
}

func newTally(n int) *tallies { return &tallies{all: make([]tally, n)} }

// Go runs one client.
func (t *tallies) Go(client func(*tally) error) {
	mine := &t.all[t.n]
	t.n++
	t.wg.Go(func() { mine.err = client(mine) })
}

func (t *tallies) wait() (count int, delays []time.Duration, err error) {
	t.wg.Wait()
	for _, one := range t.all {
		count += one.count
		delays = append(delays, one.delays...)
		if err == nil {
			err = one.err
		}
	}
	return count, delays, err
}
