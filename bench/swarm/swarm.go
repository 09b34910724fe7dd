// Package swarm is thousands of delta ADS clients in a process of their own, one TCP connection each, which do what an Envoy does: ask for
// everything of their own, for endpoints of the clusters that they have and for one route, acknowledge, and say what they have when they come back.
//
// Invariants: a client takes in what it is sent at once and asks for nothing else; bytes are counted at the socket; times are the wall clock's,
// which the processes of one machine share.
package swarm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/specproxy/specproxy/bench/rig"
)

// Options of a swarm.
type Options struct {
	// Self is this program, which is started again.
	Self string
	// Dir is for its log, Name its name there.
	Dir, Name string
	// Address of the control plane, host:port.
	Address string
	// Streams is how many clients there are.
	Streams int
	// RoutesOnly: they ask for the route and for nothing else, as from a server that has nothing else.
	RoutesOnly bool
}

// Swarm is a running one, as its parent sees it.
type Swarm struct {
	*rig.Process
	url string
}

// Counts is what the clients have received since they were last reset.
type Counts struct {
	// Bytes of TCP payload, Pushes that named a resource, and Resources in them.
	Bytes     int64 `json:"bytes"`
	Pushes    int64 `json:"pushes"`
	Resources int64 `json:"resources"`
}

// Arrivals says when a route reached the clients: Unix time in nanoseconds.
type Arrivals struct {
	P50  int64 `json:"p50"`
	P99  int64 `json:"p99"`
	Last int64 `json:"last"`
}

// Start connects all clients and returns once each has all that it asked for.
func Start(ctx context.Context, o Options) (*Swarm, error) {
	p, err := rig.Start(o.Dir, o.Name, o.Self, "child", "swarm", o.Address, strconv.Itoa(o.Streams), strconv.FormatBool(o.RoutesOnly))
	if err != nil {
		return nil, err
	}
	line, err := p.FirstLine(ctx)
	if err != nil {
		p.Stop()
		return nil, err
	}
	var said struct{ Address string }
	if err := json.Unmarshal([]byte(line), &said); err != nil {
		p.Stop()
		return nil, fmt.Errorf("%s: its first line %q names no address: %w", o.Name, line, err)
	}
	return &Swarm{Process: p, url: "http://" + said.Address}, nil
}

// Arm makes the clients wait for their next route.
func (s *Swarm) Arm(ctx context.Context) error { return Call(ctx, s.url+"/arm", nil) }

// Await returns when the route came that the clients were armed for, once all have one.
func (s *Swarm) Await(ctx context.Context) (Arrivals, error) {
	var out Arrivals
	err := Call(ctx, s.url+"/await", &out)
	return out, err
}

// Reset begins the counts anew.
func (s *Swarm) Reset(ctx context.Context) error { return Call(ctx, s.url+"/reset", nil) }

// Counts reads them.
func (s *Swarm) Counts(ctx context.Context) (Counts, error) {
	var out Counts
	err := Call(ctx, s.url+"/counts", &out)
	return out, err
}

// Drop cuts all connections.
func (s *Swarm) Drop(ctx context.Context) error { return Call(ctx, s.url+"/drop", nil) }

// Return connects all clients again, at once and with what they have, and returns when each was answered.
func (s *Swarm) Return(ctx context.Context) error { return Call(ctx, s.url+"/return", nil) }

// Call asks a child of the benchmark over HTTP; a nil answer is not read.
func Call(ctx context.Context, url string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return fmt.Errorf("ask the child: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("ask the child: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	if err == nil && answer != nil {
		err = json.Unmarshal(body, answer)
	}
	if err != nil {
		return fmt.Errorf("ask the child: %w", err)
	}
	return nil
}

// Child is the swarm's process: ADDRESS STREAMS ROUTESONLY.
func Child(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 3 {
		return fmt.Errorf("swarm: %q is not ADDRESS STREAMS ROUTESONLY", args)
	}
	streams, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("swarm: %w", err)
	}
	if err := EnoughFiles(streams); err != nil {
		return err
	}
	c := newCrowd(args[0], streams, args[2] == "true")
	defer c.drop()
	if err := c.connect(ctx); err != nil {
		return err
	}
	if err := c.settled(ctx); err != nil {
		return err
	}
	mux := http.NewServeMux()
	handle := func(path string, fn func(ctx context.Context) (any, error)) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			answer, err := fn(r.Context())
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_ = json.NewEncoder(w).Encode(answer) // Whoever asked sees what is missing.
		})
	}
	handle("/arm", func(context.Context) (any, error) { c.arm(); return nil, nil })
	handle("/await", func(ctx context.Context) (any, error) { return c.await(ctx) })
	handle("/reset", func(context.Context) (any, error) { c.reset(); return nil, nil })
	handle("/counts", func(context.Context) (any, error) { return c.counts(), nil })
	handle("/drop", func(context.Context) (any, error) { c.drop(); return nil, nil })
	handle("/return", func(waits context.Context) (any, error) {
		if err := c.connect(ctx); err != nil {
			return nil, err
		}
		return nil, c.answered(waits)
	})
	return Serve(ctx, mux, out)
}

// Serve answers the parent until ctx ends, and prints where, as a child's first line.
func Serve(ctx context.Context, h http.Handler, out io.Writer) error {
	l, err := rig.Listen(ctx)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if _, err := fmt.Fprintf(out, "{\"address\":%q}\n", l.Addr()); err != nil {
		return err
	}
	if err := server.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// EnoughFiles refuses to open more connections than the process may have. Go has raised the soft limit to the hard one.
func EnoughFiles(connections int) error {
	const others = 200
	limit, err := fileLimit()
	if err != nil {
		return err
	}
	if uint64(connections+others) > limit {
		return fmt.Errorf("%d connections need %d open files and %d are allowed: raise the hard limit (ulimit -Hn, LimitNOFILE)", connections, connections+others, limit)
	}
	return nil
}

func fileLimit() (uint64, error) {
	entries, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	var soft uint64
	_, err = fmt.Sscanf(after(string(entries), "Max open files"), "%d", &soft)
	if err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	return soft, nil
}
