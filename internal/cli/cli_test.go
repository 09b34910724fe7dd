package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/cli"
)

// output is a writer that can be waited on.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	written chan struct{}
}

func newOutput() *output { return &output{written: make(chan struct{}, 1)} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.written <- struct{}{}:
	default:
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// until waits for text to have been printed n times.
func (o *output) until(t *testing.T, n int, text string) {
	t.Helper()
	for strings.Count(o.String(), text) < n {
		select {
		case <-o.written:
		case <-t.Context().Done():
			t.Fatalf("%q was not printed %d times:\n%s", text, n, o)
		case <-time.After(20 * time.Second):
			t.Fatalf("%q was not printed %d times in time:\n%s", text, n, o)
		}
	}
}

func env(stdout, stderr io.Writer, vars map[string]string) cli.Env {
	return cli.Env{
		Stdout: stdout, Stderr: stderr, Now: func() time.Time { return now }, Actor: "ada@laptop", Version: "v1.2.3",
		Getenv: func(name string) string { return vars[name] },
	}
}

// run carries out one command line against a fake and returns what it printed and its exit code.
func run(t testing.TB, server *httptest.Server, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = cli.Run(t.Context(), env(&out, &errs, map[string]string{"SPECPROXY_SERVER": server.URL}), args)
	return out.String(), errs.String(), code
}

// start carries one out in the background; stop is Ctrl-C and returns the exit code.
func start(t *testing.T, server *httptest.Server, args ...string) (out *output, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out = newOutput()
	done := make(chan int, 1)
	go func() {
		done <- cli.Run(ctx, env(out, io.Discard, map[string]string{"SPECPROXY_SERVER": server.URL}), args)
	}()
	return out, func() int {
		cancel()
		return <-done
	}
}

func TestInterruptingTheWatchLosesNothing(t *testing.T) {
	f := inTrouble()
	out, stop := start(t, serve(t, f), "rollback", "customer-service", "--watch-for", "1h")
	out.until(t, 1, "cure: +")
	if code := stop(); code != cli.ExitDone {
		t.Errorf("exit code %d, want %d", code, cli.ExitDone)
	}
	if len(f.records) != 1 || f.spec.GetGeneration() != 6 {
		t.Errorf("after Ctrl-C the rollback does not stand: %d records, generation %d", len(f.records), f.spec.GetGeneration())
	}
}

func TestInterruptingTheProofSaysThatItIsCommitted(t *testing.T) {
	f := inTrouble()
	f.laggards = []string{"proxy edge-2: away"}
	out, stop := start(t, serve(t, f), "rollback", "customer-service", "--timeout", "1h")
	out.until(t, 1, "record: PM-1")
	if code := stop(); code != cli.ExitUnproven {
		t.Errorf("exit code %d, want %d", code, cli.ExitUnproven)
	}
	if !strings.Contains(out.String(), "it is committed and goes on by itself") {
		t.Errorf("the note is missing:\n%s", out)
	}
}

func TestWatchPrintsEachRevisionOnce(t *testing.T) {
	f := inTrouble()
	out, stop := start(t, serve(t, f), "get", "customer-service", "--watch", "-o", "json")
	for n := 1; n <= 3; n++ {
		out.until(t, n, "\n")
		f.mu.Lock()
		f.bump()
		f.mu.Unlock()
	}
	out.until(t, 4, "\n")
	if code := stop(); code != cli.ExitDone {
		t.Errorf("exit code %d, want %d", code, cli.ExitDone)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, line := range lines {
		var got struct{ Revision string }
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("line %d is no JSON object: %v\n%s", i, err, line)
		}
		if want := fmt.Sprint(40 + i); got.Revision != want {
			t.Errorf("line %d shows revision %s, want %s", i, got.Revision, want)
		}
	}
}

func TestRollbackSendsWhatWasSeen(t *testing.T) {
	f := inTrouble()
	if _, stderr, code := run(t, serve(t, f), "rollback", "customer-service", "--from", "2.1.0", "--to", "2.0.2", "--now", "--reason", "r"); code != cli.ExitDone {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	target := f.rollback.GetTargets()[0]
	if target.GetGeneration() != 5 || target.GetFrom() != "2.1.0" || target.GetTo() != "2.0.2" || !f.rollback.GetNow() || f.rollback.GetReason() != "r" {
		t.Errorf("asked for %v", f.rollback)
	}
	if f.actor != "ada@laptop" {
		t.Errorf("the actor is %q", f.actor)
	}
}

func TestDeploySendsItsFlags(t *testing.T) {
	f := inTrouble()
	if _, stderr, code := run(t, serve(t, f), "deploy", "customer-service:2.1.0", "--override", "PM-3", "--reason", "r", "--automation", "--dry-run"); code != cli.ExitDone {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	d := f.deployed
	if d.GetOverride().GetPostmortem() != "PM-3" || d.GetOverride().GetReason() != "r" || d.GetReason() != "r" || !d.GetAutomation() || !d.GetDryRun() || d.GetNow() {
		t.Errorf("asked for %v", d)
	}
}

// A rollback is proven by asking again while the control plane restarts: it is committed, whoever answers.
func TestTheProofSurvivesARestart(t *testing.T) {
	f := inTrouble()
	f.aborts = 3
	out, stderr, code := run(t, serve(t, f), "rollback", "customer-service", "--timeout", "1m")
	if code != cli.ExitDone || !strings.Contains(out, "effective: after 12 ms") {
		t.Errorf("exit code %d: %s\n%s", code, stderr, out)
	}
	if f.aborts != 0 || len(f.records) != 1 {
		t.Errorf("%d cuts are left, %d records were made", f.aborts, len(f.records))
	}
}

// A server that accepts connections and cuts them does not keep the next one from being asked.
func TestABrokenServerPassesTheTurn(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var closing sync.WaitGroup
	closing.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	})
	t.Cleanup(closing.Wait)
	t.Cleanup(func() { _ = listener.Close() })

	var out, errs bytes.Buffer
	vars := map[string]string{"SPECPROXY_SERVER": "http://" + listener.Addr().String() + "," + serve(t, inTrouble()).URL}
	if code := cli.Run(t.Context(), env(&out, &errs, vars), []string{"proxies"}); code != cli.ExitDone {
		t.Fatalf("exit code %d: %s", code, &errs)
	}
	if !strings.Contains(out.String(), "edge-1") {
		t.Errorf("printed:\n%s", &out)
	}
}

// What is typed in percent arrives in basis points, exactly, however it is split.
func TestWeightsArriveExactly(t *testing.T) {
	f := inTrouble()
	server := serve(t, f)
	names := []string{"2.0.2", "2.0.3", "2.1.0"}
	rapid.Check(t, func(r *rapid.T) {
		first := rapid.IntRange(0, 10_000).Draw(r, "first")
		second := rapid.IntRange(0, 10_000-first).Draw(r, "second")
		points := []int{first, second, 10_000 - first - second}
		args := []string{"weights", "customer-service", "--dry-run"}
		for i, p := range points {
			text := fmt.Sprintf("%d.%02d", p/100, p%100)
			if rapid.Bool().Draw(r, "short") {
				text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
				if p < 100 {
					text = fmt.Sprintf("0.%02d", p)
				} else if p%1000 == 0 {
					text = fmt.Sprint(p / 100)
				}
			}
			args = append(args, names[i]+"="+text)
		}
		if _, stderr, code := run(t, server, args...); code != cli.ExitDone {
			r.Fatalf("%v: exit code %d: %s", args, code, stderr)
		}
		for i, w := range f.weights.GetWeights() {
			if w.GetVersion() != names[i] || int(w.GetBasisPoints()) != points[i] {
				r.Fatalf("%v arrived as %v", args, f.weights.GetWeights())
			}
		}
	})
}

func TestManyLaggardsAreCutShortForPeopleOnly(t *testing.T) {
	f := inTrouble()
	for i := range 25 {
		f.laggards = append(f.laggards, fmt.Sprintf("proxy edge-%d: away", i))
	}
	server := serve(t, f)
	out, _, code := run(t, server, "deploy", "customer-service:2.0.3", "--timeout", "10ms")
	if code != cli.ExitUnproven || strings.Count(out, "laggard: ") != 10 || !strings.Contains(out, "and 15 more") {
		t.Errorf("exit code %d, printed:\n%s", code, out)
	}
	out, _, code = run(t, server, "deploy", "customer-service:2.0.2", "--timeout", "10ms", "-o", "json")
	if code != cli.ExitUnproven || strings.Count(out, ": away") != 25 {
		t.Errorf("exit code %d, printed:\n%s", code, out)
	}
}

// Programs rely on the names: they are the API's own.
func TestJSONKeepsTheAPIsNames(t *testing.T) {
	out, _, _ := run(t, serve(t, inTrouble()), "rollback", "customer-service", "-o", "json")
	var got struct {
		Changes []struct {
			Target, Postmortem, CommittedAt string
			AlreadyDone                     *bool
			Abandoned                       []string
		}
		Effects []struct {
			Effective                 bool
			FencesAcked, ProxiesTotal int
			EffectiveAt, CommittedAt  time.Time
			LastAdmissionID           string
			Laggards, Refusals        []string
			By, Spec, Generation      string
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(got.Changes) != 1 || len(got.Effects) != 1 {
		t.Fatalf("printed:\n%s", out)
	}
	change, effect := got.Changes[0], got.Effects[0]
	if change.Target != "2.0.3" || change.Postmortem != "PM-1" || change.Abandoned[0] != "2.1.0" || change.AlreadyDone == nil {
		t.Errorf("change: %+v", change)
	}
	if !effect.Effective || effect.EffectiveAt.Sub(effect.CommittedAt) != 12*time.Millisecond || effect.FencesAcked != 2 || effect.Generation != "6" || effect.Laggards == nil {
		t.Errorf("effect: %+v", effect)
	}
}

func TestAgesAreReadable(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                              "now",
		1500 * time.Millisecond:        "1.5s ago",
		42 * time.Second:               "42s ago",
		5 * time.Minute:                "5m ago",
		-90 * time.Second:              "in 1m30s",
		3*time.Hour + 20*time.Minute:   "3h20m ago",
		50 * time.Hour:                 "2d2h ago",
		-7 * 24 * time.Hour:            "in 7d",
		59*time.Minute + time.Second/2: "59m ago",
	} {
		f := inTrouble()
		f.proxies = []*operatorv1.Proxy{{Node: "edge-1", Version: "v", Connected: true, LastSeen: ago(d)}}
		out, _, _ := run(t, serve(t, f), "proxies")
		if !strings.Contains(out, "connected  "+want) {
			t.Errorf("%s prints as:\n%s\nwant %q", d, out, want)
		}
	}
}
