package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// guardedContract has one rule for every disposition.
const guardedContract = `effects: guarded
default: {onRollback: complete, within: 5m, then: cancel}
rules:
  - when: {path: /jobs/held}
    onRollback: complete
    within: 300ms
    then: hold
  - when: {path: "/jobs/late*"}
    onRollback: complete
    within: 300ms
    then: cancel
    retryAfter: 3s
  - when: {effects: irreversible}
    onRollback: complete
    within: 5m
    then: hold
  - when: {path: "/jobs/cancelled*"}
    onRollback: cancel
    retryAfter: 7s
  - when: {effects: none, path: "/jobs/handed*"}
    onRollback: handover
    else: cancel`

// desk is an agent whose every execution does what a test tells it, step by step. It asks before it acts.
type desk struct {
	t        *testing.T
	version  string
	url      string
	localAPI string // host:port of its sidecar's local API

	mu   sync.Mutex
	jobs map[string]*job
}

// job is one execution of a desk, named by the last part of its path.
type job struct {
	desk *desk
	// begun gets the execution's id once the agent has read the request; cut is closed when the request's context ends before the job does.
	begun chan string
	cut   chan struct{}
	steps chan func(http.ResponseWriter)
	done  chan struct{} // closed by finish
	once  sync.Once

	id, body string // once begun
}

func startDesk(t *testing.T, version string) *desk {
	t.Helper()
	d := &desk{t: t, version: version, localAPI: freeAddress(t), jobs: map[string]*job{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.url = "http://" + l.Addr().String()
	server := &http.Server{Handler: d}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	t.Cleanup(func() {
		d.mu.Lock()
		for _, j := range d.jobs {
			j.finish()
		}
		d.mu.Unlock()
		server.Close()
		<-served
	})
	return d
}

// sidecar starts a desk's sidecar.
func (d *desk) sidecar(w *world, spec string, more ...string) *process {
	return w.sidecar(spec+":"+d.version, d.url, append([]string{"--local-api", d.localAPI}, more...)...)
}

// job prepares for an execution that is going to come. One that nobody prepared for is answered at once.
func (d *desk) job(name string) *job {
	d.mu.Lock()
	defer d.mu.Unlock()
	j := &job{desk: d, begun: make(chan string, 1), cut: make(chan struct{}), steps: make(chan func(http.ResponseWriter)), done: make(chan struct{})}
	d.jobs[name] = j
	return j
}

func (d *desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	d.mu.Lock()
	j := d.jobs[name]
	d.mu.Unlock()
	if j != nil {
		j.id, j.body = r.Header.Get("X-Execution-Id"), string(body)
		j.begun <- j.id
		for ended := false; !ended; {
			select {
			case step := <-j.steps:
				step(w)
			case <-j.done:
				ended = true
			case <-r.Context().Done():
				close(j.cut)
				return
			}
		}
	}
	if w.Header().Get("X-Spec-Outcome") == "" {
		w.Header().Set("X-Spec-Outcome", "success")
	}
	fmt.Fprintf(w, "%s answers %s: %s", d.version, name, body)
}

// begins waits until the agent has the request, and returns the execution's id.
func (j *job) begins() string {
	j.desk.t.Helper()
	return await(j.desk.t, "request at "+j.desk.version, j.begun)
}

// isCut waits until the agent is told that its request is over.
func (j *job) isCut() {
	j.desk.t.Helper()
	await(j.desk.t, "end of the request at "+j.desk.version, j.cut)
}

// do runs a step in the agent's handler.
func (j *job) do(step func(http.ResponseWriter)) {
	j.desk.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ran := make(chan struct{})
	select {
	case j.steps <- func(w http.ResponseWriter) { defer close(ran); step(w) }:
	case <-ctx.Done():
		j.desk.t.Fatal("the agent took no step")
	}
	<-ran
}

// finish lets the agent answer.
func (j *job) finish() { j.once.Do(func() { close(j.done) }) }

// act asks the sidecar for an effect before it happens.
func (j *job) act(class string) (status int, answer string) {
	j.desk.t.Helper()
	return j.desk.post("/v1/effects", map[string]string{"executionId": j.id, "tool": "refund.issue", "class": class, "key": "r-17"})
}

func (d *desk) post(path string, body any) (status int, answer string) {
	d.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		d.t.Fatal(err)
	}
	res, err := http.Post("http://"+d.localAPI+path, "application/json", bytes.NewReader(raw))
	if err != nil {
		d.t.Fatalf("the sidecar's local API: %v", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// get reads a path of the sidecar's local API, for its effect on time only.
func (d *desk) get(path string) {
	res, err := http.Get("http://" + d.localAPI + path)
	if err != nil {
		d.t.Errorf("the sidecar's local API: %v", err)
		return
	}
	res.Body.Close()
}

// await takes one value from a channel, in time.
func await[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case v := <-from:
		return v
	case <-ctx.Done():
		t.Fatalf("no %s within %s", what, patience)
		panic("unreachable")
	}
}

// call is one request on its way and what became of it.
type call struct {
	t      *testing.T
	done   chan struct{}
	status int
	header http.Header
	body   string
	err    error
}

// request sends POST /jobs/NAME; the body is text. Without a deadline of its own it ends with the test.
func request(t *testing.T, address, host, name, text string, header ...string) *call {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/jobs/"+name, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	c := &call{t: t, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			c.err = err
			return
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		c.status, c.header, c.body, c.err = res.StatusCode, res.Header, string(raw), err
	}()
	t.Cleanup(func() { <-c.done })
	return c
}

// answer waits for the response.
func (c *call) answer(status int, parts ...string) *call {
	c.t.Helper()
	await(c.t, "answer", c.done)
	if c.err != nil || c.status != status {
		c.t.Errorf("answer %d %q (%v), want %d", c.status, c.body, c.err, status)
	}
	contains(c.t, c.body, parts...)
	return c
}

// open says that there is no answer yet.
func (c *call) open() {
	c.t.Helper()
	select {
	case <-c.done:
		c.t.Errorf("answered already: %d %q (%v)", c.status, c.body, c.err)
	default:
	}
}
