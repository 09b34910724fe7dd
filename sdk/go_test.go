package sdk_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/sidecar"
	"github.com/specproxy/specproxy/internal/sidecar/fakecontrol"
	specproxy "github.com/specproxy/specproxy/sdk/go"
)

// goAgent is an agent that uses the Go helper; its sidecar listens on a Unix socket.
type goAgent struct {
	client  *specproxy.Client
	acted   chan string
	refused chan error
}

func (g *goAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	switch r.URL.Path {
	case "/held":
		for { // the request's context ends too; this agent does not look at it
			state, there, err := g.client.State(context.WithoutCancel(ctx))
			if err != nil || !there || state.Cut {
				break
			}
		}
		g.refused <- g.client.Do(context.WithoutCancel(ctx), specproxy.Act{Tool: "refund.issue", Class: specproxy.Irreversible}, func(context.Context) error {
			g.acted <- "late"
			return nil
		})
	case "/act":
		err := g.client.Do(ctx, specproxy.Act{Tool: "refund.issue", Class: specproxy.Irreversible, Key: "r-1", Compensation: "none"}, func(context.Context) error {
			g.acted <- specproxy.Execution(ctx)
			return nil
		})
		if err = errors.Join(err, g.client.Ask(ctx, specproxy.Act{Tool: "mail.read"}), g.client.Succeeded(ctx)); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	case "/fail":
		_ = g.client.Failed(ctx, "over the limit")
	}
	_, _ = io.WriteString(w, specproxy.Execution(ctx))
}

func TestGoAgent(t *testing.T) {
	socket := "unix:" + filepath.Join(t.TempDir(), "agent.sock")
	g := &goAgent{client: specproxy.New(socket), acted: make(chan string, 4), refused: make(chan error, 1)}
	l := listen(t)
	server := &http.Server{Handler: specproxy.Handler(g), ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	r := start(t, func(o *sidecar.Options) { o.Upstream, o.LocalAPI = "http://"+l.Addr().String(), socket })

	a := r.get(200, "/act")
	if id := <-g.acted; id != a.id || a.body != a.id {
		t.Errorf("acted for %q, answered %q, ours is %q", id, a.body, a.id)
	}
	x := r.ended(a.id)
	if got := fmt.Sprint(acts(x)); got != "[refund.issue irreversible r-1 none guarded mail.read readonly   guarded]" || x.GetOutcome() != "success" {
		t.Errorf("acts %s, outcome %s", got, x.GetOutcome())
	}
	r.failedWith(r.get(200, "/fail").id, "over the limit")

	answered := make(chan answer, 1)
	go func() { answered <- r.do(http.MethodGet, "/held", "") }()
	r.control.Wait("a running execution", func(v fakecontrol.View) bool { return len(v.Running) == 1 })
	r.fence()
	if err := <-g.refused; !errors.Is(err, specproxy.ErrRefused) {
		t.Errorf("after the cut: %v, want a refusal", err)
	}
	if a := <-answered; a.status != http.StatusServiceUnavailable {
		t.Errorf("%+v, want the retry signal", a)
	}
	if len(g.acted) > 0 {
		t.Error("it acted all the same")
	}
}

// Without a sidecar everything is allowed; with one that is not there, nothing is, and so outside of an execution.
func TestGoClientWithoutClearAnswers(t *testing.T) {
	ctx := specproxy.WithExecution(t.Context(), "x-1")
	act := specproxy.Act{Tool: "refund.issue"}
	none := specproxy.New("")
	if err := errors.Join(none.Ask(t.Context(), act), none.Succeeded(ctx), none.Failed(ctx, "")); err != nil {
		t.Errorf("without a sidecar: %v", err)
	}
	l := listen(t)
	gone := specproxy.New("http://" + l.Addr().String())
	_ = l.Close()
	ran := false
	if err := gone.Do(ctx, act, func(context.Context) error { ran = true; return nil }); err == nil || errors.Is(err, specproxy.ErrRefused) || ran {
		t.Errorf("a sidecar that is gone: %v, acted %v", err, ran)
	}
	if err := gone.Ask(t.Context(), act); !errors.Is(err, specproxy.ErrNoExecution) {
		t.Errorf("outside of an execution: %v", err)
	}
}
