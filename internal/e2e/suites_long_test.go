//go:build long

package e2e

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/sidecar/certs"
	"github.com/specproxy/specproxy/internal/sidecar/certs/certstest"
)

// These suites were written by others. Each run logs the names and the number of its cases; a case that was skipped fails it.

// suiteTool finds a program that make installs.
func suiteTool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", ".tools", "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run make conformance-tools", err)
	}
	return path
}

// fronted starts a sidecar before an agent and returns where it listens; its version has all the traffic of its spec.
func (w *world) fronted(spec, upstream string, flags []string, manifest ...string) string {
	w.t.Helper()
	w.publish(spec, older, completeContract, manifest...)
	address := freeAddress(w.t)
	w.sidecar(spec+":"+older, upstream, append([]string{"--listen", address}, flags...)...)
	w.ready(spec, older, 1)
	w.deploy(spec, older)
	return address
}

// h2specCase is one case of h2spec, as it went.
type h2specCase struct {
	section, name string
	why           string // it failed; empty: it passed
	skipped       bool
}

func (c h2specCase) key() string { return c.section + ": " + c.name }

// h2spec runs all cases, or those of some sections, against a server.
func h2spec(t *testing.T, address string, overTLS bool, sections ...string) []h2specCase {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	args := append([]string{"--strict", "--timeout", "4", "--host", host, "--port", port, "--junit-report", report}, sections...)
	if overTLS {
		args = append([]string{"--tls", "--insecure"}, args...) // whom it may believe is another test's
	}
	cmd := exec.CommandContext(t.Context(), suiteTool(t, "h2spec"), args...)
	out, runErr := cmd.CombinedOutput() // fails if a case did
	data, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("h2spec wrote no report: %v, %v\n%s", err, runErr, out)
	}
	var parsed struct {
		Suites []struct {
			Cases []struct {
				Package string  `xml:"package,attr"`
				Name    string  `xml:"classname,attr"`
				Failure *string `xml:"failure"`
				Error   *string `xml:"error"`
				Skipped *string `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(data, &parsed); err != nil {
		t.Fatal(err)
	}
	var cases []h2specCase
	for _, s := range parsed.Suites {
		for _, c := range s.Cases {
			out := h2specCase{section: c.Package, name: c.Name, skipped: c.Skipped != nil}
			for _, why := range []*string{c.Failure, c.Error} {
				if why != nil {
					out.why = "failed " + *why
				}
			}
			cases = append(cases, out)
		}
	}
	return cases
}

// failedCases are the keys of the cases that failed.
func failedCases(cases []h2specCase) (keys []string) {
	for _, c := range cases {
		if c.why != "" {
			keys = append(keys, c.key())
		}
	}
	return keys
}

// TestLongH2SpecIsNoWorseThanPlainNetHTTP runs h2spec against the sidecar, and against net/http alone on the same machine, with and without TLS.
func TestLongH2SpecIsNoWorseThanPlainNetHTTP(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, strings.Repeat("x", 8<<10))
	})
	agent := httptest.NewServer(handler)
	t.Cleanup(agent.Close)
	cert, key := certstest.New(t).Pair(t, certs.ServerName)
	for _, c := range []struct {
		name    string
		overTLS bool
		flags   []string
	}{
		{"plain", false, nil}, {"tls", true, []string{"--tls-cert", cert, "--tls-key", key}},
	} {
		t.Run(c.name, func(t *testing.T) {
			alone := httptest.NewUnstartedServer(handler)
			alone.Config.Protocols = new(http.Protocols)
			alone.Config.Protocols.SetHTTP1(true)
			alone.Config.Protocols.SetHTTP2(c.overTLS)
			alone.Config.Protocols.SetUnencryptedHTTP2(!c.overTLS)
			alone.EnableHTTP2 = c.overTLS
			alone.Config.ErrorLog = log.New(io.Discard, "", 0)
			if c.overTLS {
				alone.StartTLS()
			} else {
				alone.Start()
			}
			t.Cleanup(alone.Close)
			compareH2Spec(t, alone.Listener.Addr().String(), startPlane(t, nil).fronted(c.name, agent.URL, c.flags), c.overTLS)
		})
	}
}

// compareH2Spec holds the sidecar's cases against net/http's.
func compareH2Spec(t *testing.T, alone, sidecar string, overTLS bool) {
	t.Helper()
	theirs, ours := h2spec(t, alone, overTLS), h2spec(t, sidecar, overTLS)
	if len(ours) < 140 || len(ours) != len(theirs) {
		t.Errorf("%d cases against the sidecar, %d against net/http", len(ours), len(theirs))
	}
	passed := 0
	for _, c := range ours {
		switch {
		case c.skipped:
			t.Errorf("skipped: %s", c.key())
		case c.why == "":
			passed++
			t.Logf("passed: %s", c.key())
		case slices.Contains(failedCases(theirs), c.key()):
			t.Logf("failed, as against net/http: %s", c.key())
		default:
			// Some cases race their own connection's end: it is worse only where it never passes.
			again := false
			for range 3 {
				again = again || !slices.Contains(failedCases(h2spec(t, sidecar, overTLS, c.section)), c.key())
			}
			if !again {
				t.Errorf("worse than net/http: %s: %s", c.key(), c.why)
			} else {
				passed++
				t.Logf("passed when repeated: %s", c.key())
			}
		}
	}
	t.Logf("h2spec %s: %d cases, %d passed; %d of net/http's failed", map[bool]string{true: "over TLS", false: "in plain text"}[overTLS], len(ours), passed, len(failedCases(theirs)))
}

// credentialed are the cases of grpc-go's interop client that need accounts and servers of a cloud; its interop server has nothing to them.
var credentialed = []string{
	"compute_engine_creds", "service_account_creds", "jwt_token_creds", "per_rpc_creds", "oauth2_auth_token", "google_default_credentials",
	"compute_engine_channel_credentials",
}

// unserved are the cases that grpc-go's own server does not pass: it gives itself no id to tell servers apart by.
var unserved = []string{"pick_first_unary"}

// reportsConfig makes the client look at the load reports that the orca cases are about.
const reportsConfig = `{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`

// TestLongGRPCInterop runs every case that grpc-go's interop client and server share: against the server alone, through the sidecar, and through
// Envoy and the sidecar.
func TestLongGRPCInterop(t *testing.T) {
	client := suiteTool(t, "grpc-interop-client")
	cases := interopCases(t, client)
	_, port, err := net.SplitHostPort(freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	start(t, nil, suiteTool(t, "grpc-interop-server"), "--port", port)
	server := net.JoinHostPort("localhost", port)
	w := startPlane(t, nil)
	sidecar := w.fronted("interop", "http://"+server, nil, "hosts: [localhost]")
	envoy := envoytest.Start(t, envoytest.Config{Servers: []string{w.grpc}})
	for _, way := range []struct{ name, address string }{
		{"the server alone", server}, {"the sidecar", sidecar}, {"Envoy and the sidecar", envoy.Address},
	} {
		t.Run(way.name, func(t *testing.T) {
			_, port, err := net.SplitHostPort(way.address)
			if err != nil {
				t.Fatal(err)
			}
			ran := 0
			for _, c := range cases {
				args := []string{"--server_host", "localhost", "--server_port", port, "--test_case", c}
				if strings.HasPrefix(c, "orca_") {
					args = append(args, "--service_config_json", reportsConfig)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
				out, err := exec.CommandContext(ctx, client, args...).CombinedOutput()
				cancel()
				if slices.Contains(unserved, c) {
					if way.address == server && err == nil {
						t.Errorf("the server passes %s now: take it from the list of what it does not", c)
					}
					continue
				}
				ran++
				if err != nil {
					t.Errorf("failed: %s: %v\n%s", c, err, out)
					continue
				}
				t.Logf("passed: %s", c)
			}
			t.Logf("grpc-go interop through %s: %d cases", way.name, ran)
		})
	}
}

// interopCases are the client's own list, less those that need credentials. A case that is neither fails.
func interopCases(t *testing.T, client string) (cases []string) {
	t.Helper()
	var usage bytes.Buffer
	cmd := exec.Command(client, "--help")
	cmd.Stderr = &usage
	_ = cmd.Run() // --help is an error to package flag
	for _, m := range regexp.MustCompile(`(?m)^\s+([a-z_]+)\s*:`).FindAllStringSubmatch(usage.String(), -1) {
		if !slices.Contains(credentialed, m[1]) {
			cases = append(cases, m[1])
		}
	}
	if len(cases) < 17 {
		t.Fatalf("the client lists %d cases: %v\n%s", len(cases), cases, usage.String())
	}
	return append(cases, "rpc_soak", "channel_soak") // which its list leaves out
}
