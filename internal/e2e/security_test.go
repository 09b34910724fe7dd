package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/gen/specproxy/operator/v1/operatorv1connect"
	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/auth"
	"github.com/specproxy/specproxy/internal/envoytest"
)

// identity is what a control plane beyond loopback needs: a certificate that signs itself, its key, and a token for proxies and sidecars.
type identity struct{ cert, key, token string }

func newIdentity(t *testing.T) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "specproxy"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t,
		"cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		"key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})),
		"token", "a-token-for-proxies-and-sidecars\n")
	return identity{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), token: filepath.Join(dir, "token")}
}

func TestListeningBeyondLoopbackWantsTLSAndToken(t *testing.T) {
	id := newIdentity(t)
	tls := []string{"--tls-cert", id.cert, "--tls-key", id.key}
	token := []string{"--token-file", id.token}
	const needsTLS, needsToken = "TLS (--tls-cert and --tls-key)", "a token (--token-file)"
	for _, c := range []struct {
		name    string
		flags   []string
		missing []string
		not     string
	}{
		{"api with nothing", []string{"--api", "0.0.0.0:0"}, []string{"--api 0.0.0.0:0", needsTLS}, ""},
		{"api on every address", []string{"--api", ":0"}, []string{"--api :0", needsTLS}, ""},
		{"api by name", []string{"--api", "example.org:0"}, []string{"--api example.org:0", needsTLS}, ""},
		{"api with a token only", append([]string{"--api", "[::]:0"}, token...), []string{"--api [::]:0", needsTLS}, needsToken},
		{"grpc with nothing", []string{"--grpc", "0.0.0.0:0"}, []string{"--grpc 0.0.0.0:0", needsTLS, needsToken}, ""},
		{"grpc with TLS only", append([]string{"--grpc", "0.0.0.0:0"}, tls...), []string{"--grpc 0.0.0.0:0", needsToken}, needsTLS},
		{"grpc with a token only", append([]string{"--grpc", "0.0.0.0:0"}, token...), []string{"--grpc 0.0.0.0:0", needsTLS}, needsToken},
		{"both", []string{"--api", "0.0.0.0:0", "--grpc", "0.0.0.0:0"}, []string{"--api 0.0.0.0:0", "--grpc 0.0.0.0:0", needsTLS, needsToken}, ""},
		{"admin page for others", append([]string{"--admin", "0.0.0.0:0", "--token-file", id.token}, tls...), []string{"--admin 0.0.0.0:0", "loopback"}, ""},
		{"half of TLS", []string{"--tls-cert", id.cert}, []string{"--tls-cert and --tls-key go together"}, ""},
		{"a token that is none", []string{"--token-file", id.key + ".none"}, []string{"token file"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			// What a case does not say listens on loopback.
			args := append([]string{"--data-dir", data, "--api", "127.0.0.1:0", "--grpc", "127.0.0.1:0"}, c.flags...)
			out := fails(t, 2, c.missing, "xds", args...)
			if c.not != "" && strings.Contains(out, c.not) {
				t.Errorf("it asks for %s, which it has:\n%s", c.not, out)
			}
			if exists(data) {
				t.Error("the data directory was begun")
			}
		})
	}
	run := []string{"--spec", "shop:2.0.0", "--upstream", "http://127.0.0.1:1", "--cache-dir", t.TempDir()}
	fails(t, 2, []string{"--control 10.0.0.1:18000 is not on this machine", "--ca", "--token-file"}, "specproxy", append(run, "--control", "10.0.0.1:18000")...)
	fails(t, 2, []string{"--admin", "loopback"}, "specproxy", append(run, "--control", "127.0.0.1:18000", "--admin", "0.0.0.0:0")...)
	fails(t, 2, []string{"--local-api", "loopback"}, "specproxy", append(run, "--control", "127.0.0.1:18000", "--local-api", "0.0.0.0:0")...)
	fails(t, 1, []string{"http://10.0.0.1:18080", "plain http", "https"}, "specctl", "--server", "http://10.0.0.1:18080", "--token-file", id.token, "get", "shop")
}

// startSecure runs bin/xds on every address of the machine, with TLS and a token. The tests call it on loopback.
func startSecure(t *testing.T, id identity, more ...string) *world {
	t.Helper()
	w := &world{t: t, dataDir: t.TempDir()}
	lines := make(chan string, 1)
	w.xds = start(t, lines, filepath.Join(binDir, "xds"), append([]string{"--data-dir", w.dataDir, "--api", "0.0.0.0:0", "--grpc", "0.0.0.0:0",
		"--tls-cert", id.cert, "--tls-key", id.key, "--token-file", id.token}, more...)...)
	var at struct{ API, GRPC string }
	if err := json.Unmarshal([]byte(await(t, "address of xds", lines)), &at); err != nil {
		t.Fatal(err)
	}
	local := func(address string) string {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		return "127.0.0.1:" + port
	}
	w.api, w.grpc = local(at.API), local(at.GRPC)
	return w
}

func TestTLSAndTokenFromEndToEnd(t *testing.T) {
	id := newIdentity(t)
	w := startSecure(t, id)
	a := startAgent(t, "2.0.0", newFlips())
	adminToken := filepath.Join(w.dataDir, auth.AdminTokenFile)
	ctl := func(code int, parts []string, args ...string) string {
		return fails(t, code, parts, "specctl", append([]string{"--server", "https://" + w.api, "--ca-file", id.cert, "--token-file", adminToken}, args...)...)
	}
	dir := folder(t, "spec.yaml", "name: shop\nversion: 2.0.0\n"+smallContract)
	ctl(0, []string{"shop:2.0.0 sha256:"}, "publish", dir)
	pool := x509.NewCertPool()
	if raw, err := os.ReadFile(id.cert); err != nil || !pool.AppendCertsFromPEM(raw) {
		t.Fatalf("certificate: %v", err)
	}

	sidecar := []string{"--control", w.grpc, "--spec", "shop:2.0.0", "--upstream", a.url}
	wrong := filepath.Join(folder(t, "token", "another-token-of-good-length"), "token")
	fails(t, 1, []string{"shop:2.0.0", w.grpc, "token"}, "specproxy", append(sidecar, "--cache-dir", t.TempDir(), "--ca", id.cert, "--token-file", wrong)...)
	fails(t, 1, []string{"shop:2.0.0", w.grpc, "if it wants TLS, give --ca"}, "specproxy", append(sidecar, "--cache-dir", t.TempDir())...)
	start(t, nil, filepath.Join(binDir, "specproxy"), append(sidecar, "--cache-dir", t.TempDir(), "--ca", id.cert, "--token-file", id.token)...)
	eventually(t, "ready instance", func() error {
		out := ctl(0, nil, "versions", "shop", "-o", "json")
		if !strings.Contains(strings.ReplaceAll(out, " ", ""), `"ready":1`) {
			return io.ErrNoProgress
		}
		return nil
	})
	ctl(0, []string{"effective"}, "deploy", "shop:2.0.0")

	bootstrap := fails(t, 0, nil, "xds", "bootstrap", "--node", "edge-1", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
		"--control", w.grpc, "--ca", id.cert, "--token-file", id.token)
	envoy := envoytest.Start(t, envoytest.Config{Node: "edge-1", Bootstrap: []byte(bootstrap)})
	tr := newTraffic(t, "shop.agents", envoy.Address, newFlips(), nil)
	eventually(t, "answer through Envoy", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := tr.unary(ctx, "hello")
		return err
	})

	fails(t, 1, []string{"https://" + w.api, "certificate cannot be verified", "--ca-file"}, "specctl", "--server", "https://"+w.api, "--token-file", adminToken, "get", "shop")
	fails(t, 1, []string{"http://" + w.api, "does it want https?"}, "specctl", "--server", "http://"+w.api, "--token-file", adminToken, "get", "shop")
	fails(t, 1, []string{"no valid token"}, "specctl", "--server", "https://"+w.api, "--ca-file", id.cert, "--token-file", wrong, "get", "shop")
	for name, ctx := range map[string]context.Context{
		"no token":       t.Context(),
		"wrong token":    metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer another-token-of-good-length"),
		"token as basic": metadata.AppendToOutgoingContext(t.Context(), "authorization", "Basic a-token-for-proxies-and-sidecars"),
	} {
		conn, err := grpc.NewClient("passthrough:///"+w.grpc, grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(pool, "")))
		if err != nil {
			t.Fatal(err)
		}
		stream, err := sidecarv1.NewSidecarServiceClient(conn).Pull(ctx, &sidecarv1.PullRequest{Spec: "shop", Version: "2.0.0"})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v, want UNAUTHENTICATED", name, err)
		}
		conn.Close()
	}
	if log := w.xds.log.String(); strings.Contains(log, "a-token-for-proxies") || strings.Contains(log, "spx_") {
		t.Errorf("a secret is in the log:\n%s", log)
	}
}

func TestAPIRefusesWhatABrowserCanBeMadeToSend(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	raw, err := os.ReadFile(filepath.Join(w.dataDir, auth.AdminTokenFile))
	if err != nil {
		t.Fatal(err)
	}
	bearer := "Bearer " + strings.TrimSpace(string(raw))
	send := func(method, host, query string, header ...string) (int, string) {
		t.Helper()
		const rollback = `{"targets":[{"spec":"shop"}],"dryRun":true}`
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.api+operatorv1connect.OperatorServiceRollbackProcedure+query, strings.NewReader(rollback))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	const asJSON, ctype = "application/json", "Content-Type"
	for name, c := range map[string]struct {
		method, host, query string
		header              []string
		status              int
		part                string
	}{
		"as it should be":           {"POST", w.api, "", []string{ctype, asJSON, "Authorization", bearer}, 200, `"target":"2.0.0"`},
		"by the name localhost":     {"POST", "localhost:1234", "", []string{ctype, asJSON, "Authorization", bearer}, 200, `"target":"2.0.0"`},
		"by another address":        {"POST", "192.0.2.7:18080", "", []string{ctype, asJSON, "Authorization", bearer}, 200, `"target":"2.0.0"`},
		"from its own page":         {"POST", w.api, "", []string{ctype, asJSON, "Authorization", bearer, "Origin", "http://" + w.api}, 200, `"target":"2.0.0"`},
		"a rebound name":            {"POST", "evil.example:18080", "", []string{ctype, asJSON, "Authorization", bearer}, 403, `evil.example`},
		"a name that looks local":   {"POST", "127.0.0.1.evil.example", "", []string{ctype, asJSON, "Authorization", bearer}, 403, `--api-host`},
		"a foreign page":            {"POST", w.api, "", []string{ctype, asJSON, "Authorization", bearer, "Origin", "https://evil.example"}, 403, `Origin`},
		"a page without origin":     {"POST", w.api, "", []string{ctype, asJSON, "Authorization", bearer, "Origin", "null"}, 403, `Origin`},
		"another local page":        {"POST", w.api, "", []string{ctype, asJSON, "Authorization", bearer, "Origin", "http://127.0.0.1:1"}, 403, `Origin`},
		"a link":                    {"GET", w.api, "", []string{"Authorization", bearer}, 415, "POST"},
		"a link that names JSON":    {"GET", w.api, "?encoding=json&message=%7B%7D", []string{ctype, asJSON, "Authorization", bearer}, 415, "POST"},
		"a simple request":          {"POST", w.api, "", []string{ctype, "text/plain", "Authorization", bearer}, 415, "JSON"},
		"a form":                    {"POST", w.api, "", []string{ctype, "application/x-www-form-urlencoded", "Authorization", bearer}, 415, "JSON"},
		"a form with files":         {"POST", w.api, "", []string{ctype, "multipart/form-data; boundary=x", "Authorization", bearer}, 415, "JSON"},
		"a beacon without a type":   {"POST", w.api, "", []string{"Authorization", bearer}, 415, "JSON"},
		"a type that hides another": {"POST", w.api, "", []string{ctype, "text/plain; application/json", "Authorization", bearer}, 415, "JSON"},
		"no token":                  {"POST", w.api, "", []string{ctype, asJSON}, 401, auth.AdminTokenFile},
		"a wrong token":             {"POST", w.api, "", []string{ctype, asJSON, "Authorization", bearer + "0"}, 401, "no valid token"},
		"a token in the address":    {"POST", w.api, "?token=" + strings.TrimPrefix(bearer, "Bearer "), []string{ctype, asJSON}, 401, "no valid token"},
		"an empty token":            {"POST", w.api, "", []string{ctype, asJSON, "Authorization", "Bearer "}, 401, "no valid token"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, body := send(c.method, c.host, c.query, c.header...); got != c.status || !strings.Contains(body, c.part) {
				t.Errorf("%d %s, want %d and %q", got, body, c.status, c.part)
			}
		})
	}
}

func TestSidecarsLocalAPIRefusesPages(t *testing.T) {
	w := startPlane(t, nil)
	d := startDesk(t, "2.0.0")
	w.publish("shop", "2.0.0", guardedContract)
	d.sidecar(w, "shop")
	w.ready("shop", "2.0.0", 1)
	for name, header := range map[string][2]string{"rebound name": {"Host", "evil.example"}, "foreign page": {"Origin", "http://" + d.localAPI}} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+d.localAPI+"/v1/effects", strings.NewReader(`{"executionId":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(header[0], header[1])
		if header[0] == "Host" {
			req.Host = header[1]
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s", name, res.Status)
		}
	}
}

func TestAdminTokenIsPrivate(t *testing.T) {
	w := startXDS(t)
	file := filepath.Join(w.dataDir, auth.AdminTokenFile)
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("%s: mode %v (%v), want -rw-------", file, info.Mode(), err)
	}
	secret, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w.publish("shop", "2.0.0", completeContract)
	if strings.Contains(w.xds.log.String(), strings.TrimSpace(string(secret))) {
		t.Error("the token is in the log")
	}
	w.ctl(0, []string{"2.0.0"}, "versions", "shop") // it is found by itself
	w.xds.kill()
	for _, mode := range []fs.FileMode{0o644, 0o640, 0o604} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		fails(t, 1, []string{file, "can be read by others", "chmod 600 " + file}, "xds", "--data-dir", w.dataDir, "--api", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
		w.ctl(1, []string{file, "can be read by others", "chmod 600 " + file}, "versions", "shop")
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	w.restartXDS()
	if again, err := os.ReadFile(file); err != nil || !bytes.Equal(again, secret) {
		t.Errorf("a restart made another token (%v)", err)
	}
	w.ctl(0, []string{"2.0.0"}, "versions", "shop")
}

func TestEveryChangeRecordsItsActor(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	by := func(name string) func(connect.AnyRequest) {
		return func(r connect.AnyRequest) { r.Header().Set(auth.ActorHeader, name) }
	}
	raw, err := os.ReadFile(filepath.Join(w.dataDir, auth.AdminTokenFile))
	if err != nil {
		t.Fatal(err)
	}
	var who func(connect.AnyRequest)
	client := operatorv1connect.NewOperatorServiceClient(http.DefaultClient, "http://"+w.api, connect.WithInterceptors(connect.UnaryInterceptorFunc(
		func(next connect.UnaryFunc) connect.UnaryFunc {
			return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
				req.Header().Set("Authorization", "Bearer "+strings.TrimSpace(string(raw)))
				who(req)
				return next(ctx, req)
			}
		})))
	do := func(name string, command func() error) {
		t.Helper()
		who = by(name)
		if err := command(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	ctx := t.Context()
	do("pia", func() error {
		_, err := client.Publish(ctx, connect.NewRequest(&operatorv1.PublishRequest{Files: []*operatorv1.File{{Path: "spec.yaml", Content: []byte("name: shop\nversion: 2.2.0\n" + smallContract)}}}))
		return err
	})
	rollback := func(from string) func() error {
		return func() error {
			_, err := client.Rollback(ctx, connect.NewRequest(&operatorv1.RollbackRequest{Targets: []*operatorv1.RollbackTarget{{Spec: "shop", From: from}}}))
			return err
		}
	}
	do("rob", rollback("2.1.0"))
	do("uma", func() error {
		_, err := client.Undo(ctx, connect.NewRequest(&operatorv1.UndoRequest{Postmortem: "PM-1"}))
		return err
	})
	do("ron", rollback("2.1.0"))
	do("una", func() error {
		_, err := client.Unfreeze(ctx, connect.NewRequest(&operatorv1.UnfreezeRequest{Spec: "shop"}))
		return err
	})
	do("ove", func() error {
		_, err := client.Deploy(ctx, connect.NewRequest(&operatorv1.DeployRequest{
			Refs: []*operatorv1.Ref{{Spec: "shop", Version: "2.1.0"}}, Override: &operatorv1.Override{Postmortem: "PM-2", Reason: "x"},
		}))
		return err
	})
	do("wes", func() error {
		_, err := client.SetWeights(ctx, connect.NewRequest(&operatorv1.SetWeightsRequest{
			Spec: "shop", Weights: []*operatorv1.Weight{{Version: "2.0.0", BasisPoints: 5000}, {Version: "2.1.0", BasisPoints: 5000}},
		}))
		return err
	})
	do("tom", func() error {
		_, err := client.SetHeaderTargets(ctx, connect.NewRequest(&operatorv1.SetHeaderTargetsRequest{Spec: "shop", Version: "2.0.0", Headers: []*operatorv1.Header{{Name: "x-tester", Value: "1"}}}))
		return err
	})
	do("tia", func() error {
		_, err := client.RemoveHeaderTargets(ctx, connect.NewRequest(&operatorv1.RemoveHeaderTargetsRequest{Spec: "shop", All: true}))
		return err
	})
	w.answered("PM-1")
	do("cleo", func() error {
		_, err := client.ClosePostMortem(ctx, connect.NewRequest(&operatorv1.ClosePostMortemRequest{Id: "PM-1", Cause: "false-alarm", Note: "x"}))
		return err
	})

	res, err := w.client.GetSpec(ctx, connect.NewRequest(&operatorv1.GetSpecRequest{Spec: "shop"}))
	if err != nil {
		t.Fatal(err)
	}
	var actors []string // newest first
	for _, c := range res.Msg.GetHistory() {
		actors = append(actors, c.GetKind()+" "+c.GetActor())
	}
	if got := strings.Join(actors[:7], ", "); got != "target admin (tia), target admin (tom), weights admin (wes), deploy admin (ove), rollback admin (ron), undo admin (uma), rollback admin (rob)" {
		t.Errorf("history: %s", got)
	}
	if got := res.Msg.GetSpec().GetChangedBy(); got != "admin (tia)" {
		t.Errorf("changed by %q", got)
	}
	one, two := w.record("PM-1"), w.record("PM-2")
	for what, got := range map[string]string{
		"publisher of 2.2.0": w.version("shop:2.2.0").GetPublishedBy(), "PM-1": one.Actor, "undo": one.Undone.Actor, "closing": one.Closing.Actor,
		"PM-2": two.Actor, "unfreeze": two.Unfrozen[0].Actor, "override": two.Overrides[0].Actor,
	} {
		want := map[string]string{
			"publisher of 2.2.0": "pia", "PM-1": "rob", "undo": "uma", "closing": "cleo", "PM-2": "ron", "unfreeze": "una", "override": "ove",
		}[what]
		if got != "admin ("+want+")" {
			t.Errorf("%s: actor %q, want admin (%s)", what, got, want)
		}
	}
	// What specctl sends is who runs it and where.
	w.ctl(0, nil, "weights", "shop", "2.0.0=40", "2.1.0=60")
	if got := w.spec("shop").GetChangedBy(); !strings.HasPrefix(got, "admin (") || !strings.Contains(got, "@") {
		t.Errorf("specctl changed it as %q", got)
	}
}
