// Package sdk_test runs agents that use the client helpers, as their users would, behind a real sidecar: Starlette, a2a-sdk and LangGraph from
// their registries (make python installs them), and a Go agent.
package sdk_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/sidecar"
	"github.com/specproxy/specproxy/internal/sidecar/agent"
	"github.com/specproxy/specproxy/internal/sidecar/fakecontrol"
)

const patience = time.Minute

// python is where scripts/install-python.sh puts it.
var python = absolute("../.tools/python/bin/python")

func absolute(path string) string {
	full, err := filepath.Abs(path)
	if err != nil {
		panic(err)
	}
	return full
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "play-guard" {
		if err := agent.Guard(os.Stdin, os.Args[2:]...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// What is imported once is imported quickly ever after: starting an agent then takes no longer than a test waits.
	warm := exec.Command(python, "-c", "import uvicorn, starlette.applications, a2a.server.routes, langgraph.prebuilt")
	if out, err := warm.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "the Python packages that the SDK is tested with are not there (make python): %v\n%s", err, out)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// manifest guards every act, and cancels what has not acted.
const manifest = `name: customer-service
version: 2.1.0
inFlight:
  effects: guarded
  declared:
  - {tool: mail.read, class: readonly}
  - {tool: look_up, class: readonly}
  default: {onRollback: complete, within: 1m, then: hold}
  rules:
  - when: {effects: none}
    onRollback: cancel
    retryAfter: 1s
`

// rig is one sidecar and what its agent wrote down.
type rig struct {
	t       *testing.T
	control *fakecontrol.Control
	address string
	notes   string
}

// start runs a sidecar with an agent until the test ends; change may alter its options.
func start(t *testing.T, change func(*sidecar.Options)) *rig {
	t.Helper()
	r := &rig{t: t, control: fakecontrol.Start(t), notes: filepath.Join(t.TempDir(), "notes")}
	t.Setenv("NOTES", r.notes)
	t.Setenv("PYTHONPATH", absolute("python"))
	version := r.control.Publish(map[string]string{"spec.yaml": manifest})
	signals := make(chan os.Signal, 2)
	options := sidecar.Options{
		Controls: []string{r.control.Address()}, Ref: version.Ref(), Listen: "127.0.0.1:0", LocalAPI: "127.0.0.1:0",
		Guard: []string{os.Args[0], "play-guard"}, CacheDir: t.TempDir(), DrainTimeout: time.Second, Version: "test", Signals: signals,
		Stdout: os.Stdout, Stderr: os.Stderr, Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
		Timing: sidecar.Timing{MaxBackoff: 50 * time.Millisecond, Probe: 50 * time.Millisecond, Report: 10 * time.Millisecond, Leave: 10 * time.Millisecond},
	}
	change(&options)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sidecar.Run(ctx, options) }()
	t.Cleanup(func() {
		cancel()
		signals <- syscall.SIGTERM
		if err := <-done; err != nil {
			t.Log("the sidecar ended:", err)
		}
	})
	view := r.control.Wait("a ready sidecar", func(v fakecontrol.View) bool { return v.Connected > 0 && v.Status.GetReady() })
	r.address = view.Hellos[0].GetAddress()
	return r
}

// startPython runs one of the agents in python/testdata.
func startPython(t *testing.T, name string) *rig {
	t.Helper()
	return start(t, func(o *sidecar.Options) { o.Command = []string{python, absolute("python/testdata/" + name)} })
}

// fence abandons the version, as a rollback does.
func (r *rig) fence() {
	r.control.SetState(func(s *sidecarv1.State) {
		s.Generation++
		s.Fence = &sidecarv1.Fence{Generation: s.GetGeneration(), TargetVersion: "2.0.3", TargetPin: "pin203", Postmortem: "PM-1"}
	})
}

// answer is a response and the execution that it ended.
type answer struct {
	status   int
	body, id string
	err      error
}

func (r *rig) do(method, path, body string, headers ...string) answer {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+r.address+path, strings.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, string(text), res.Header.Get("X-Execution-Id"), err}
}

// get expects a status.
func (r *rig) get(status int, path string) answer {
	r.t.Helper()
	a := r.do(http.MethodGet, path, "")
	if a.err != nil || a.status != status {
		r.t.Errorf("GET %s: %+v, want status %d", path, a, status)
	}
	return a
}

// counts waits until so many executions have succeeded, failed and ended without a statement.
func (r *rig) counts(succeeded, failed, unknown uint64) {
	r.t.Helper()
	r.control.Wait(fmt.Sprintf("%d succeeded, %d failed, %d unknown", succeeded, failed, unknown), func(v fakecontrol.View) bool {
		return v.Totals.GetSucceeded() == succeeded && v.Totals.GetFailed() == failed && v.Totals.GetUnknown() == unknown
	})
}

// ended waits until the control plane was told how an execution ended.
func (r *rig) ended(id string) *sidecarv1.Execution {
	r.t.Helper()
	return r.control.Wait("the end of "+id, func(v fakecontrol.View) bool { return v.Ended[id] != nil }).Ended[id]
}

// failedWith expects the reason of an execution's failure to begin with a text.
func (r *rig) failedWith(id, reason string) {
	r.t.Helper()
	if x := r.ended(id); x.GetOutcome() != "failure" || !strings.HasPrefix(x.GetOutcomeReason(), reason) {
		r.t.Errorf("outcome %s %q, want a failure: %s", x.GetOutcome(), x.GetOutcomeReason(), reason)
	}
}

// acts lists what an execution is known to have done, "tool class key compensation source" each.
func acts(x *sidecarv1.Execution) []string {
	var out []string
	for _, a := range x.GetActs() {
		out = append(out, strings.Join([]string{a.GetTool(), a.GetClass(), a.GetKey(), a.GetCompensation(), a.GetSource()}, " "))
	}
	return out
}

func (r *rig) noted() string {
	r.t.Helper()
	data, err := os.ReadFile(r.notes)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	return string(data)
}

// cutWhile sends a request whose agent waits, abandons the version, and expects the retry signal and an agent that was refused.
func (r *rig) cutWhile(path string) {
	r.t.Helper()
	answered := make(chan answer, 1)
	go func() { answered <- r.do(http.MethodGet, path, "") }()
	r.control.Wait("a running execution", func(v fakecontrol.View) bool { return len(v.Running) == 1 })
	r.fence()
	if a := <-answered; a.err != nil || a.status != http.StatusServiceUnavailable {
		r.t.Errorf("%s: %+v, want the retry signal", path, a)
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond) // the agent is another process: nothing tells of its notes
	defer tick.Stop()
	for !strings.Contains(r.noted(), "refused ") {
		select {
		case <-tick.C:
		case <-deadline.C:
			r.t.Fatalf("%s: the agent noted %q, want that it was refused", path, r.noted())
		}
	}
	if notes := r.noted(); strings.Contains(notes, "paid late") || strings.Contains(notes, "refunded") {
		r.t.Errorf("%s: it acted all the same: %q", path, notes)
	}
}

func TestStarletteAgent(t *testing.T) {
	r := startPython(t, "starlette_agent.py")
	if a := r.get(200, "/ok"); a.body != a.id || a.id == "" {
		t.Errorf("the agent's execution is %q, ours %q", a.body, a.id)
	}
	if a := r.get(200, "/stream"); a.body != "one two" {
		t.Errorf("stream: %q", a.body)
	}
	r.counts(2, 0, 0)
	r.get(400, "/unkind")
	r.counts(2, 0, 1)
	r.failedWith(r.get(500, "/broken").id, "RuntimeError: no such order")
	r.failedWith(r.get(200, "/stated").id, "over the limit")
	r.counts(2, 2, 1)

	a := r.get(200, "/acts")
	x := r.ended(a.id)
	want := []string{
		"refund.issue irreversible r-1 none guarded", "ticket.open compensable t-2 ticket.close guarded", "note.write idempotent   guarded",
		"mail.read readonly   guarded",
	}
	if got := acts(x); fmt.Sprint(got) != fmt.Sprint(want) || x.GetOutcome() != "success" || x.GetEffects() != "irreversible" {
		t.Errorf("acts %q, %s %s; want %q", got, x.GetOutcome(), x.GetEffects(), want)
	}
	if notes := r.noted(); notes != "paid 1\nopened 2\nnoted\nread\n" {
		t.Errorf("notes %q", notes)
	}
	if a = r.do(http.MethodPost, "/refunds/7", "", "Idempotency-Key", "order-7"); a.status != 200 {
		t.Errorf("%+v", a)
	}
	if got := acts(r.ended(a.id)); fmt.Sprint(got) != "[refund.route compensable order-7 refund.void guarded]" {
		t.Errorf("acts of a route: %q", got)
	}
	r.cutWhile("/held")
}

func TestA2AAgent(t *testing.T) {
	r := startPython(t, "a2a_agent.py")
	send := func(method, text string) answer {
		t.Helper()
		a := r.do(http.MethodPost, "/rpc", fmt.Sprintf(`{"jsonrpc":"2.0","id":"1","method":%q,"params":{"message":{"messageId":"m","role":"ROLE_USER","parts":[{"text":%q}]}}}`, method, text),
			"Content-Type", "application/json", "A2A-Version", "1.0")
		if a.err != nil || a.status != 200 {
			t.Errorf("%s %s: %+v", method, text, a)
		}
		return a
	}
	send("SendMessage", "complete")
	send("SendStreamingMessage", "complete")
	send("SendMessage", "talk")
	r.counts(3, 0, 0)
	send("SendMessage", "ask") // waits for a person: nothing can be said yet
	r.counts(3, 0, 1)
	r.failedWith(send("SendMessage", "fail").id, "task failed")
	r.failedWith(send("SendStreamingMessage", "fail").id, "task failed")
	r.failedWith(send("Nonsense", "").id, "Method not found") // with status 200
	a := r.do(http.MethodPost, "/message:send", `{"message":{"messageId":"m","role":"ROLE_USER","parts":[{"text":"fail"}]}}`, "Content-Type", "application/json", "A2A-Version", "1.0")
	r.failedWith(a.id, "task failed")
	r.counts(3, 4, 1)
}

func TestLangGraphAgent(t *testing.T) {
	r := startPython(t, "langgraph_agent.py")
	for i, path := range []string{"/sync", "/async"} {
		order := fmt.Sprint(i)
		a := r.get(200, path+"?call=issue_refund&order="+order)
		x := r.ended(a.id)
		if got := fmt.Sprint(acts(x)); got != "[issue_refund irreversible call-"+order+" call the customer guarded]" || x.GetOutcome() != "success" || a.body != "done" {
			t.Errorf("%s: acts %s, outcome %s, body %q", path, got, x.GetOutcome(), a.body)
		}
		r.get(200, path+"?call=look_up&order="+order) // only reads, as the manifest declares: told in the counts
		r.failedWith(r.get(500, path+"?call=break_down&order="+order).id, "RuntimeError: the ledger is down")
		r.get(200, path+"?call=ask_person&order="+order)
	}
	r.counts(4, 2, 2)
	if notes := r.noted(); notes != "refunded 0\nlooked up 0\nrefunded 1\nlooked up 1\n" {
		t.Errorf("notes %q", notes)
	}
}

func TestLangGraphToolsDoNotRunOnceCut(t *testing.T) {
	for _, path := range []string{"/sync", "/async"} {
		t.Run(path, func(t *testing.T) { startPython(t, "langgraph_agent.py").cutWhile(path + "?call=wait&order=late") })
	}
}

// listen is for an agent that is this process.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
