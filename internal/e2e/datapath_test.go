package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/gorilla/websocket"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// says is an agent that answers with one word.
func says(t *testing.T, word string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, word) }))
	t.Cleanup(s.Close)
	return s.URL
}

// saysOn is the same on a Unix socket.
func saysOn(t *testing.T, path, word string) string {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, word) }))
	_ = s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return "unix:" + path
}

// TestSidecarsOnUnixSockets reaches two versions' sidecars by pipe addresses: Envoy does, and one sidecar does that passes work on. Their agents listen on
// such sockets, too.
func TestSidecarsOnUnixSockets(t *testing.T) {
	const spec = "shop"
	w := startPlane(t, nil)
	dir := t.TempDir()
	for _, v := range []string{older, newer} {
		w.publish(spec, v, completeContract)
		w.sidecar(spec+":"+v, saysOn(t, filepath.Join(dir, v+".agent"), v), "--listen", "unix:"+filepath.Join(dir, v))
		w.ready(spec, v, 1)
	}
	w.deploy(spec, older)
	w.deploy(spec, newer)
	envoy := w.envoy("edge-1")
	ask := func(client *http.Client, url string) (string, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("body"))
		if err != nil {
			return "", err
		}
		req.Host = spec + ".agents"
		res, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return string(body), err
	}
	gets := func(want string) {
		t.Helper()
		eventually(t, "answer of "+want, func() error {
			if got, err := ask(http.DefaultClient, "http://"+envoy.Address); err != nil || got != want {
				return fmt.Errorf("%q, %w", got, err)
			}
			return nil
		})
	}
	gets(newer)
	w.rollback(spec)
	gets(older)
	fenced := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, newer))
	}}}
	defer fenced.CloseIdleConnections()
	if got, err := ask(fenced, "http://past-envoy"); err != nil || got != older {
		t.Errorf("the fenced sidecar passes work on to %q, %v", got, err)
	}
}

// TestWebSocketThroughEnvoyIsCutByACloseFrame has a real library on both ends of Envoy and sidecar.
func TestWebSocketThroughEnvoyIsCutByACloseFrame(t *testing.T) {
	const spec = "shop"
	w := startPlane(t, nil)
	ended := make(chan error, 1)
	chat := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{}).Upgrade(rw, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		for {
			kind, data, err := conn.ReadMessage()
			if err != nil {
				ended <- err
				return
			}
			if err := conn.WriteMessage(kind, data); err != nil {
				t.Error(err)
				return
			}
		}
	}))
	t.Cleanup(chat.Close)
	w.publish(spec, older, completeContract)
	w.publish(spec, newer, "effects: guarded\ndefault: {onRollback: cancel, retryAfter: 2s}")
	w.sidecar(spec+":"+older, chat.URL)
	w.sidecar(spec+":"+newer, chat.URL)
	w.ready(spec, older, 1)
	w.ready(spec, newer, 1)
	w.deploy(spec, older)
	w.deploy(spec, newer)
	envoy := w.envoy("edge-1")
	var conn *websocket.Conn
	eventually(t, "WebSocket", func() error {
		c, res, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+envoy.Address+"/chat", http.Header{"Host": {spec + ".agents"}})
		if err == nil {
			res.Body.Close()
			conn = c
		}
		return err
	})
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if err := conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, data, err := conn.ReadMessage(); err != nil || string(data) != "hello" {
		t.Fatalf("%q, %v", data, err)
	}
	w.rollback(spec)
	_, _, err := conn.ReadMessage()
	if closed := (*websocket.CloseError)(nil); !errors.As(err, &closed) || closed.Code != 1012 || !strings.HasPrefix(closed.Text, "SPEC_VERSION_ROLLED_BACK") {
		t.Errorf("the client's connection ended by %v", err)
	}
	select {
	case err := <-ended:
		if closed := (*websocket.CloseError)(nil); !errors.As(err, &closed) || closed.Code != 1012 {
			t.Errorf("the agent's connection ended by %v", err)
		}
	case <-time.After(patience):
		t.Error("the agent's connection lives on")
	}
}

// TestWhatDiesWithASidecarIsNamed kills a sidecar with work in flight. The control plane must name that work, whether the instance is given up,
// another sidecar takes its address, its successor has its name, or it is kept because it is the last of a version with weight.
func TestWhatDiesWithASidecarIsNamed(t *testing.T) {
	const spec = "shop"
	w := startPlane(t, shorten)
	w.publish(spec, older, completeContract)
	reached := make(chan struct{}, 10)
	hold := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		reached <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(hold.Close)
	address := freeAddress(t)
	for round, successor := range [][]string{nil, {}, {"--instance", "desk-1"}, nil} {
		p := w.sidecar(spec+":"+older, hold.URL, append([]string{"--listen", address}, successor...)...)
		w.ready(spec, older, 1)
		if round == 3 {
			w.deploy(spec, older)
		}
		var keys []string
		for i := range 3 {
			key := fmt.Sprintf("work-%d-%d", round, i)
			keys = append(keys, key)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/", strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Idempotency-Key", key)
			go func() {
				if res, err := http.DefaultClient.Do(req); err == nil {
					res.Body.Close()
				}
			}()
			select {
			case <-reached:
			case <-time.After(patience):
				t.Fatal("a request did not reach the agent")
			}
		}
		listed := func(failed bool) (found []*operatorv1.Execution) {
			res, err := w.client.ListExecutions(t.Context(), connect.NewRequest(&operatorv1.ListExecutionsRequest{Spec: spec, Failed: failed}))
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range res.Msg.GetExecutions() {
				for _, key := range keys {
					if x.GetKey() == key {
						found = append(found, x)
					}
				}
			}
			return found
		}
		eventually(t, "running work", func() error {
			if got := listed(false); len(got) != len(keys) {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
		p.kill()
		if successor != nil {
			p = w.sidecar(spec+":"+older, hold.URL, append([]string{"--listen", address}, successor...)...)
		}
		eventually(t, "names of what was lost", func() error {
			got := listed(true)
			if len(got) != len(keys) {
				return fmt.Errorf("%v", got)
			}
			for _, x := range got {
				if x.GetOutcome() != "failure" || !strings.Contains(x.GetReason(), "sidecar is gone") {
					return fmt.Errorf("%v", x)
				}
			}
			if still := listed(false); len(still) > 0 {
				return fmt.Errorf("still listed as running: %v", still)
			}
			return nil
		})
		if successor != nil {
			p.terminate()
			w.ready(spec, older, 0)
		}
	}
}
