package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/auth"
	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/registrytest"
)

// replicas are control planes that share an etcd, to which they speak TLS, and a registry.
type replicas struct {
	t     *testing.T
	files etcdFiles
	etcd  string
	repo  string
	all   map[string]*world
	more  []string // what xds is started with besides
}

func startReplicas(t *testing.T, names ...string) *replicas {
	t.Helper()
	r := &replicas{t: t, all: map[string]*world{}}
	r.etcd, r.files = startEtcd(t)
	r.repo = "oci://" + registrytest.Start(t, registrytest.Options{}).Host + "/specs"
	for _, name := range names {
		r.add(name)
	}
	return r
}

// add starts one more replica.
func (r *replicas) add(name string) {
	r.t.Helper()
	w := &world{t: r.t, dataDir: r.t.TempDir(), api: freeAddress(r.t), grpc: freeAddress(r.t)}
	// One token for all of them, as an operator would give it to them.
	if err := os.WriteFile(filepath.Join(w.dataDir, auth.AdminTokenFile), []byte("spx_"+strings.Repeat("0123456789abcdef", 4)+"\n"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.all[name] = w
	r.start(name)
	w.connect()
}

// start runs the named replica, for the first time or again.
func (r *replicas) start(name string) {
	r.t.Helper()
	w, lines := r.all[name], make(chan string, 1)
	w.xds = start(r.t, lines, filepath.Join(binDir, "xds"), append([]string{
		"--data-dir", w.dataDir, "--api", w.api, "--grpc", w.grpc, "--archive", r.repo, "--replica", name,
		"--etcd-endpoints", r.etcd, "--etcd-ca", r.files.cert, "--etcd-cert", r.files.cert, "--etcd-key", r.files.key,
	}, r.more...)...)
	select {
	case line := <-lines:
		if !json.Valid([]byte(line)) {
			r.t.Fatalf("xds printed %q", line)
		}
	case <-w.xds.done:
		r.t.Fatalf("xds %s ended: %v\n%s", name, w.xds.err, w.xds.log.String())
	case <-time.After(patience):
		r.t.Fatalf("xds %s did not listen within %s\n%s", name, patience, w.xds.log.String())
	}
}

// leader waits until one of n replicas leads, as the named one sees it, and returns its name.
func (r *replicas) leader(at string, n int) (leader string) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("leader of %d", n), func() error {
		list, err := r.all[at].client.ListProxies(r.t.Context(), connect.NewRequest(&operatorv1.ListProxiesRequest{}))
		if err != nil {
			return err
		}
		leader = ""
		for _, replica := range list.Msg.GetReplicas() {
			if replica.GetLeader() {
				leader = replica.GetName()
			}
		}
		if leader == "" || len(list.Msg.GetReplicas()) != n {
			return fmt.Errorf("replicas: %v", list.Msg.GetReplicas())
		}
		return nil
	})
	return leader
}

// TestReplicasProveTogetherAndOneOfThemLeads runs two control planes with an Envoy each. A rollback at one is proven by the Envoys of both. Then the
// leader is killed: the other one takes over what only one does, and says of the dead one's Envoy that it knows nothing of it.
func TestReplicasProveTogetherAndOneOfThemLeads(t *testing.T) {
	r := startReplicas(t, "a", "b")
	a, b := r.all["a"], r.all["b"]
	leader, other := r.leader("a", 2), "a"
	if leader == "a" {
		other = "b"
	}
	const spec = "shop"
	for _, version := range []string{"1.0.0", "2.0.0"} {
		a.publish(spec, version, "default: {onRollback: complete, within: 5s, then: cancel}")
		agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, version) }))
		t.Cleanup(agent.Close)
		a.sidecarVia(a.grpc+","+b.grpc, spec+":"+version, agent.URL)
		a.ready(spec, version, 1)
	}
	a.deploy(spec, "1.0.0")
	edges := map[string]*envoytest.Envoy{}
	for name, w := range r.all {
		w.ready(spec, "2.0.0", 1)
		edges[name] = w.envoy("edge-" + name)
		answers(t, edges[name], spec, "1.0.0")
	}
	both := func(w *world, generation uint64) *operatorv1.GetEffectResponse {
		t.Helper()
		var effect *operatorv1.GetEffectResponse
		eventually(t, "proof by both proxies", func() error {
			if effect = w.effective(spec, generation); effect.GetProxiesAcked() != 2 || effect.GetProxiesTotal() != 2 {
				return fmt.Errorf("%v", effect)
			}
			return nil
		})
		return effect
	}
	// Each replica proves with the other's proxy.
	change := a.deploy(spec, "2.0.0")
	both(a, change.GetGeneration())
	both(b, change.GetGeneration())
	out, code := b.specctl("proxies")
	if code != 0 || !strings.Contains(out, "edge-a") || !strings.Contains(out, "at a") || !strings.Contains(out, leader+" (leads)") {
		t.Errorf("specctl proxies at b, exit %d:\n%s", code, out)
	}
	back := b.rollback(spec)
	both(a, back.GetGeneration())
	for _, e := range edges {
		answers(t, e, spec, "1.0.0")
	}

	r.all[leader].xds.kill()
	if now := r.leader(other, 1); now != other {
		t.Fatalf("%s leads after %s was killed", now, leader)
	}
	survivor := r.all[other]
	recorded(t, survivor, back.GetPostmortem()) // only a leader does that
	effect := survivor.effectNow(spec, 0)
	if len(effect.GetLaggards()) != 1 || !strings.HasPrefix(effect.GetLaggards()[0], "proxy edge-"+leader+": ") {
		t.Errorf("the dead replica's proxy is not named: %v", effect.GetLaggards())
	}
	answers(t, edges[leader], spec, "1.0.0") // it goes on by what it has

	// Somebody vouches for its end: nothing waits for it any more, at no replica, until it comes back.
	for _, c := range []struct {
		args []string
		code int
		part string
	}{
		{[]string{"edge-" + leader}, 2, "--reason is missing"},
		{[]string{"edge-" + other, "--reason", "x"}, 1, "proxy edge-" + other + " is connected: it serves, and has its say"},
		{[]string{"edge-x", "--reason", "x"}, 1, "no proxy edge-x was ever seen"},
		{[]string{"edge-" + leader, "--reason", "scaled down"}, 0, "edge-" + leader + ": forgotten"},
		{[]string{"edge-" + leader, "--reason", "again"}, 0, "edge-" + leader + ": forgotten"},
	} {
		out, code := survivor.specctl(append([]string{"proxies", "forget"}, c.args...)...)
		if code != c.code || !strings.Contains(out, c.part) {
			t.Errorf("forget %v: exit %d, want %d and %q\n%s", c.args, code, c.code, c.part, out)
		}
	}
	r.add("c")
	for _, w := range []*world{survivor, r.all["c"]} {
		effect := w.effectNow(spec, 0)
		out, code := w.specctl("proxies")
		proxy := func(laggard string) bool { return strings.HasPrefix(laggard, "proxy ") } // sidecars know nothing of c
		if slices.ContainsFunc(effect.GetLaggards(), proxy) || effect.GetProxiesTotal() != 1 || code != 0 || strings.Contains(out, "edge-"+leader) {
			t.Errorf("the forgotten proxy is waited for or shown: %v\n%s", effect, out)
		}
	}
	r.all["c"].xds.terminate()
	<-r.all["c"].xds.done

	r.start(leader)
	if now := r.leader(leader, 2); now != other {
		t.Errorf("%s leads; the one that came back took over", now)
	}
	both(r.all[leader], back.GetGeneration())
	out, code = survivor.specctl("proxies", "edge-"+leader)
	if code != 0 || !strings.Contains(out, "connected, at replica "+leader) {
		t.Errorf("specctl proxies edge-%s, exit %d:\n%s", leader, code, out)
	}
}

// effectNow asks without waiting.
func (w *world) effectNow(spec string, generation uint64) *operatorv1.GetEffectResponse {
	w.t.Helper()
	res, err := w.client.GetEffect(w.t.Context(), connect.NewRequest(&operatorv1.GetEffectRequest{Spec: spec, Generation: generation}))
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Msg
}

// recorded waits until a leader has written the proof and the end of the drain into the record.
func recorded(t *testing.T, w *world, id string) {
	t.Helper()
	eventually(t, "proof in "+id, func() error {
		res, err := w.client.GetPostMortem(t.Context(), connect.NewRequest(&operatorv1.GetPostMortemRequest{Id: id}))
		if err != nil {
			return err
		}
		var record struct {
			Rollbacks []struct {
				Effect    *struct{ Proxies, ProxiesAcked int }
				Abandoned []struct{ Settled *struct{} }
			}
		}
		if err := json.Unmarshal([]byte(res.Msg.GetPostmortem().GetJson()), &record); err != nil {
			return err
		}
		if len(record.Rollbacks) != 1 || record.Rollbacks[0].Effect == nil || record.Rollbacks[0].Abandoned[0].Settled == nil {
			return errors.New(res.Msg.GetPostmortem().GetJson())
		}
		return nil
	})
}

// answers waits until an Envoy's answer for the spec is the one wanted.
func answers(t *testing.T, e *envoytest.Envoy, spec, want string) {
	t.Helper()
	eventually(t, spec+" "+want+" through "+e.Node, func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+e.Address+"/", nil)
		if err != nil {
			return err
		}
		req.Host = spec + ".agents"
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || string(body) != want {
			return fmt.Errorf("%s %q %w", res.Status, body, err)
		}
		return nil
	})
}

func TestHowNotToNameAnEtcdCluster(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--etcd-ca ca.pem", "none is given"},
		{"--etcd-endpoints 127.0.0.1:2379 --etcd-ca ca.pem", "write https://"},
		{"--etcd-endpoints https://127.0.0.1:2379 --etcd-cert c.pem", "go together"},
		{"--etcd-endpoints https://127.0.0.1:2379 --etcd-ca missing.pem", "--etcd-ca"},
	} {
		p := start(t, nil, filepath.Join(binDir, "xds"), append([]string{"--data-dir", t.TempDir(), "--api", "127.0.0.1:0", "--grpc", "127.0.0.1:0"}, strings.Fields(c.args)...)...)
		select {
		case <-p.done:
		case <-time.After(patience):
			t.Fatalf("%s: xds runs", c.args)
		}
		if code := p.cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(p.log.String(), c.want) {
			t.Errorf("%s: exit %d, %s", c.args, code, p.log.String())
		}
	}
}

type etcdFiles struct{ cert, key string }

// startEtcd runs a member that listens on loopback and wants certificates. The certificate is its own authority.
func startEtcd(t *testing.T) (endpoint string, files etcdFiles) {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files = etcdFiles{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	for name, block := range map[string]*pem.Block{files.cert: {Type: "CERTIFICATE", Bytes: der}, files.key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := embed.NewConfig()
	c.Dir = filepath.Join(dir, "etcd")
	c.ListenPeerUrls = nil
	c.ListenClientUrls = []url.URL{{Scheme: "https", Host: "127.0.0.1:0"}}
	c.ClientTLSInfo = transport.TLSInfo{CertFile: files.cert, KeyFile: files.key, TrustedCAFile: files.cert, ClientCertAuth: true}
	c.TickMs, c.ElectionMs = 100, 1000
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	member, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(member.Close)
	<-member.Server.ReadyNotify()
	return "https://" + member.Clients[0].Addr().String(), files
}
