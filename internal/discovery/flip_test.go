package discovery_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// flips runs requests through a real Envoy while a spec is moved back and forth, and returns how many there were and how many failed.
func flips(t *testing.T, n int, change ...func(*discovery.Options)) (requests, failed int64) {
	spec, _, _ := twoVersions(t)
	src := newSource(spec)
	cp := serve(t, src, "", change...)
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "2.0.3 ")
	cp.effective(t, shop, 1, 1)

	var sent, bad atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	answered := make(chan struct{}, 1)
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				r, err := try(t.Context(), e, "POST", shopHost, "/", "x")
				sent.Add(1)
				select {
				case answered <- struct{}{}:
				default: // a flip has been told already
				}
				if err != nil || r.status != 200 || !strings.HasSuffix(r.body, " x") {
					bad.Add(1)
				}
			}
		})
	}
	for i := range uint64(n) {
		weights := []split{{"2.0.3", 0}, {"2.1.0", 10000}}
		if i%2 == 1 {
			weights = []split{{"2.0.3", 10000}, {"2.1.0", 0}}
		}
		src.edit(shop, route(i+2, weights...))
		cp.effective(t, shop, i+2, 1)
		<-answered
	}
	stop()
	clients.Wait()
	return sent.Load(), bad.Load()
}

func TestFlipsLoseNoRequest(t *testing.T) {
	requests, failed := flips(t, 100)
	if failed != 0 {
		t.Errorf("%d of %d requests failed", failed, requests)
	}
}

func TestRemovingTheClusterFirstLosesRequests(t *testing.T) {
	requests, failed := flips(t, 100, func(o *discovery.Options) { o.Order = discovery.RemoveFirst })
	if failed == 0 {
		t.Errorf("none of %d requests failed, so the test of the right order proves nothing", requests)
	}
}

// A new version comes and the old one goes altogether, again and again: clusters are really added and removed.
func TestReplacingAllVersionsLosesNoRequest(t *testing.T) {
	agents := []*agent{newAgent(t, "a"), newAgent(t, "b")}
	version := func(i int) string { return fmt.Sprintf("1.%d.0", i) }
	only := func(i int) envoy.Spec {
		return specOf(shop, uint64(i+1), []split{{version(i), 10000}}, map[string][]string{version(i): {agents[i%2].Address}})
	}
	src := newSource(only(0))
	cp := serve(t, src, "")
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	wantReply(t, ask(t, e, "GET", shopHost, "/", ""), 200, "a ")
	var bad atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var client sync.WaitGroup
	client.Go(func() {
		for ctx.Err() == nil {
			if r, err := try(t.Context(), e, "GET", shopHost, "/", ""); err != nil || r.status != 200 {
				bad.Add(1)
			}
		}
	})
	const rounds = 30
	for i := 1; i <= rounds; i++ {
		src.put(only(i))
		cp.effective(t, shop, uint64(i+1), 1)
	}
	stop()
	client.Wait()
	if n := bad.Load(); n != 0 {
		t.Errorf("%d requests failed", n)
	}
	last := "cluster/" + version(rounds-1)
	eventually(t, last+" is removed", cp.pushes.changes, func() bool {
		return cp.pushes.removed(envoy.TypeCluster, routing.Cluster(shop, version(rounds-1)))
	})
}

func TestOneReadyInstanceIsEnough(t *testing.T) {
	spec, _, _ := twoVersions(t)
	for i := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		spec.Pools[0].Instances = append(spec.Pools[0].Instances,
			routing.Instance{ID: fmt.Sprint("dead", i), Address: l.Addr().String(), Health: routing.Ready})
		l.Close() // nobody answers there
	}
	cp := serve(t, newSource(spec), "")
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})
	for range 40 {
		wantReply(t, ask(t, e, "POST", shopHost, "/", "x"), 200, "2.0.3 x")
	}
}

func TestHTTP2ReachesTheSidecarAsHTTP2AndUpgradesPass(t *testing.T) {
	spec, older, _ := twoVersions(t)
	h2 := newH2Agent(t, "h2")
	spec.Pools[0].Instances[0].Address = h2
	spec.Pools[1].Instances[0].Address = older.Address
	cp := serve(t, newSource(spec), "")
	e := envoytest.Start(t, envoytest.Config{Servers: []string{cp.Address}})

	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Transport{Protocols: &protocols}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+e.Address+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = shopHost
	res, err := client.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got := res.Header.Get("proto"); res.StatusCode != 200 || got != "HTTP/2.0" {
		t.Errorf("got %d, the sidecar saw %q", res.StatusCode, got)
	}
	if got := ask(t, e, "GET", shopHost, "/", "").header.Get("proto"); got != "HTTP/1.1" {
		t.Errorf("HTTP/1.1 became %q", got)
	}

	older.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		rw.Flush()
		line, err := rw.ReadString('\n')
		if err == nil {
			fmt.Fprint(rw, "echo "+line)
			rw.Flush()
		}
	})
	conn, err := net.Dial("tcp", e.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nx-spec-pin: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello\n",
		shopHost, pin(shop, "2.1.0"))
	r := bufio.NewReader(conn)
	answer, err := http.ReadResponse(r, nil)
	if err != nil || answer.StatusCode != 101 {
		t.Fatalf("upgrade: %v %+v", err, answer)
	}
	if line, err := r.ReadString('\n'); err != nil || line != "echo hello\n" {
		t.Errorf("over the upgraded connection: %q, %v", line, err)
	}
}

// newH2Agent speaks HTTP/1.1 and HTTP/2 without TLS and says which it was asked in.
func newH2Agent(t *testing.T, name string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("proto", r.Proto)
		fmt.Fprint(w, name)
	})}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) }) // ends with Close
	t.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
	return l.Addr().String()
}
