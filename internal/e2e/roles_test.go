package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/controlplane"
	"github.com/specproxy/specproxy/internal/roster"
)

// office is a file of xds --tokens and the secrets of its bearers.
type office struct {
	file    string
	entries []string
	secrets map[string]string
}

// generate makes a token with the command that people use.
func (r *office) generate(t *testing.T, name string, role roster.Role) {
	t.Helper()
	dir := filepath.Dir(r.file)
	cmd := exec.CommandContext(t.Context(), filepath.Join(binDir, "specctl"), "token", "generate", name, "--role", string(role))
	cmd.Dir = dir
	entry, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(filepath.Join(dir, name+".token"))
	if err != nil {
		t.Fatal(err)
	}
	r.entries = append(r.entries, string(entry))
	r.secrets[name] = strings.TrimSpace(string(secret))
	r.write(t)
}

func (r *office) write(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(r.file, []byte("tokens:\n"+strings.Join(r.entries, "")), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRolesSayWhoMayDoWhat(t *testing.T) {
	r := &office{file: filepath.Join(t.TempDir(), "tokens.yaml"), secrets: map[string]string{}}
	for _, role := range roster.Roles() {
		r.generate(t, "a-"+string(role), role)
	}
	w := startPlane(t, func(o *controlplane.Options) { o.Tokens = r.file })
	w.staged("shop", "2.0.0", "2.1.0")
	as := func(name string, code int, want []string, args ...string) {
		t.Helper()
		fails(t, code, want, "specctl", append([]string{"--server", "http://" + w.api, "--token-file", filepath.Join(filepath.Dir(r.file), name+".token")}, args...)...)
	}

	// A viewer reads, and changes nothing. Automation and operators change what runs; a rollback wants no more than that.
	as("a-viewer", 0, []string{"2.1.0"}, "get", "shop")
	for _, args := range [][]string{{"rollback", "shop", "--now"}, {"deploy", "shop:2.0.0", "--dry-run"}, {"unfreeze", "shop"}} {
		as("a-viewer", 1, []string{"the token of viewer a-viewer may not", "operators, automation and admins may change something", "next: ask an operator"}, args...)
	}
	for _, args := range [][]string{{"policy", "set", "shop", "--postmortem-open-for", "24h"}, {"canary", "secret"}} {
		for _, name := range []string{"a-viewer", "a-automation", "a-operator"} {
			as(name, 1, []string{"may not: only an admin may do this", "next: ask an admin"}, args...)
		}
	}
	as("a-admin", 0, []string{"whsec_"}, "canary", "secret")
	as("a-operator", 0, []string{"by operator a-operator"}, "rollback", "shop", "--now", "--timeout", "1m", "--reason", "refuses refunds")

	// What was rolled back comes back by an admin's override alone.
	override := []string{"deploy", "shop:2.1.0", "--now", "--timeout", "1m", "--override", "PM-1", "--reason", "2.0.0 is worse today"}
	as("a-automation", 1, []string{"shop"}, override...)
	as("a-operator", 1, []string{"only an admin overrides PM-1, and operator a-operator is none", "ask an admin to run"}, override...)
	for _, v := range w.spec("shop").GetVersions() {
		if v.GetVersion() == "2.1.0" && v.GetWeight() > 0 {
			t.Fatalf("a refused override gave traffic: %v", v)
		}
	}
	as("a-admin", 0, []string{"shop"}, override...)
	as("a-viewer", 0, []string{"admin a-admin", "2.0.0 is worse today"}, "postmortem", "show", "PM-1")

	// The second person is another token: what somebody says of themselves makes nobody two people.
	as("a-admin", 0, nil, "policy", "set", "shop", "--require-approval")
	as("a-operator", 0, []string{"shop"}, "rollback", "shop", "--now", "--timeout", "1m", "--reason", "again")
	as("a-operator", 0, nil, "postmortem", "answer", "PM-2", "--explanation", "the same", "--canary", "there was none", "--conformance", "no case", "--fixed-in", "none")
	w.actor = "somebody-else" // $USER is what specctl says of who runs it
	as("a-operator", 1, []string{"operator a-operator answered", "a second person approves"}, "postmortem", "approve", "PM-2")
	// Nor does another role for the same token.
	was := slices.Clone(r.entries)
	for i, entry := range r.entries {
		r.entries[i] = strings.Replace(entry, "name: a-operator, role: operator", "name: a-operator, role: admin", 1)
	}
	r.write(t)
	eventually(t, "the operator to be an admin", func() error {
		if output, code := w.specctl("--token-file", filepath.Join(filepath.Dir(r.file), "a-operator.token"), "canary", "secret"); code != 0 {
			return fmt.Errorf("%d: %s", code, output)
		}
		return nil
	})
	as("a-operator", 1, []string{"a second person approves"}, "postmortem", "approve", "PM-2")
	r.entries = was
	r.write(t)
	as("a-admin", 0, []string{"PM-2"}, "postmortem", "approve", "PM-2")

	// A token that is taken away opens nothing from then on, and its browser session goes with it.
	signIn := func(name string) (int, *http.Cookie) {
		res, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).
			PostForm("http://"+w.api+"/dashboard/login", url.Values{"token": {r.secrets[name]}})
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if len(res.Cookies()) == 0 {
			return res.StatusCode, nil
		}
		return res.StatusCode, res.Cookies()[0]
	}
	overview := func(c *http.Cookie) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.api+"/dashboard/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.AddCookie(c)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	code, cookie := signIn("a-viewer")
	if code != http.StatusSeeOther || cookie == nil || overview(cookie) != http.StatusOK {
		t.Fatalf("a viewer at the dashboard: %d, %v", code, cookie)
	}
	r.entries = r.entries[1:]
	r.write(t)
	eventually(t, "the viewer's token to open nothing", func() error {
		output, code := w.specctl("--token-file", filepath.Join(filepath.Dir(r.file), "a-viewer.token"), "get", "shop")
		if code != 1 || !strings.Contains(output, "the token is not known here") && !strings.Contains(output, "no valid token") {
			return fmt.Errorf("%d: %s", code, output)
		}
		return nil
	})
	if got := overview(cookie); got == http.StatusOK {
		t.Error("the session outlives its token")
	}
	as("a-operator", 0, []string{"shop"}, "get", "shop")
}

// Whatever is not marked as a read wants a role that changes something, so that a method that somebody adds is closed until its author opens it.
func TestReadsAreMarked(t *testing.T) {
	r := &office{file: filepath.Join(t.TempDir(), "tokens.yaml"), secrets: map[string]string{}}
	r.generate(t, "grafana", roster.Viewer)
	w := startPlane(t, func(o *controlplane.Options) { o.Tokens = r.file })
	reads := 0
	for _, file := range []protoreflect.FileDescriptor{operatorv1.File_specproxy_operator_v1_operator_proto, operatorv1.File_specproxy_operator_v1_postmortem_proto, operatorv1.File_specproxy_operator_v1_rollout_proto} {
		service := file.Services().Get(0)
		for i := range service.Methods().Len() {
			m := string(service.Methods().Get(i).Name())
			if method := service.Methods().Get(i); method.IsStreamingClient() || method.IsStreamingServer() {
				t.Errorf("%s streams: roles are asked for unary calls alone (internal/api/roles.go)", m)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+w.api+"/"+string(service.FullName())+"/"+m, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer "+r.secrets["grafana"])
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			named := slices.ContainsFunc([]string{"Get", "List", "Verify", "Resolve", "Export", "Preview", "LookAhead"}, func(p string) bool { return strings.HasPrefix(m, p) })
			may := res.StatusCode != http.StatusForbidden
			if may != (named && m != "GetWebhookSecret") {
				t.Errorf("a viewer at %s: %d", m, res.StatusCode)
			}
			if may {
				reads++
			}
		}
	}
	if reads < 20 {
		t.Errorf("a viewer may read by %d methods only", reads)
	}
}
