// Package internal_test holds the rules that concern every package at once: who may import whom, and what a pure package may not touch.
package internal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/specproxy/specproxy"

// arrows is every import between packages of this module that is allowed, commands first and pure packages last. Imports point down only:
// a package may appear on the right only of packages above it. Tests may import what they like.
var arrows = []struct {
	from string
	to   []string
}{
	{"cmd/xds", []string{"internal/controlplane", "internal/routing/envoy", "internal/notify"}},
	{"cmd/specproxy", []string{"internal/sidecar", "internal/sidecar/agent", "internal/sidecar/gate", "internal/signing", "internal/versions"}},
	{"cmd/specctl", []string{"internal/cli"}},

	{"internal/controlplane", []string{
		"internal/api", "internal/dashboard", "internal/auth", "internal/control", "internal/discovery", "internal/fleet", "internal/archive", "internal/archive/registry",
		"internal/routing/envoy", "internal/store", "internal/telemetry", "internal/notify", "internal/promquery", "gen/sidecar",
	}},
	// What the API reads, as pages for a browser.
	{"internal/dashboard", []string{"internal/api", "internal/auth", "internal/postmortem", "gen/operator"}},
	{"internal/api", []string{
		"internal/auth", "internal/control", "internal/discovery", "internal/fleet", "internal/store",
		"internal/routing", "internal/postmortem", "internal/versions", "internal/drain", "internal/signing", "gen/operator",
		"internal/rollout", "internal/rollout/evidence", "internal/roster",
	}},
	{"internal/control", []string{
		"internal/discovery", "internal/fleet", "internal/archive", "internal/store",
		"internal/routing", "internal/postmortem", "internal/versions", "internal/drain",
		"internal/capture", "internal/roster", "internal/conformance", "internal/signing", "internal/specdiff", "internal/rollout", "internal/rollout/evidence", "internal/webhook", "internal/synthetic", "internal/routing/envoy",
	}},
	{"internal/discovery", []string{"internal/store", "internal/routing", "internal/routing/envoy", "internal/versions", "internal/drain"}},
	{"internal/fleet", []string{"internal/capture", "internal/store", "internal/shadow", "internal/routing", "internal/postmortem", "internal/versions", "internal/drain", "gen/sidecar"}},
	// What receivers outside are told of the records.
	{"internal/notify", []string{"internal/store", "internal/postmortem", "internal/webhook", "internal/yamlerr"}},
	{"internal/store", []string{"internal/capture", "internal/shadow", "internal/routing", "internal/postmortem", "internal/rollout", "internal/rollout/evidence", "internal/versions", "internal/drain"}},
	{"internal/cli", []string{
		"internal/archive/bundle", "internal/specdiff", "internal/signing", "internal/versions", "internal/drain", "internal/rollout", "internal/roster", "gen/operator",
	}},

	{"internal/sidecar", []string{
		"internal/sidecar/agent", "internal/sidecar/certs", "internal/sidecar/execid", "internal/sidecar/gate", "internal/sidecar/journal", "internal/sidecar/localapi", "internal/sidecar/posture",
		"internal/sidecar/proxy", "internal/sidecar/session", "internal/sidecar/specdir", "internal/signing", "internal/archive", "internal/versions", "internal/drain", "internal/capture", "gen/sidecar",
		"internal/telemetry", "internal/auth",
	}},
	{"internal/sidecar/proxy", []string{
		"internal/sidecar/agent", "internal/sidecar/execid", "internal/sidecar/gate", "internal/sidecar/http1", "internal/sidecar/posture",
		"internal/agentproto", "internal/agentproto/a2a", "internal/agentproto/grpc", "internal/agentproto/mcp", "internal/agentproto/plain", "internal/agentproto/terminal", "internal/agentproto/websocket",
		"internal/versions", "internal/drain", "internal/capture",
	}},
	{"internal/sidecar/session", []string{"internal/capture", "internal/drain", "gen/sidecar"}},
	{"internal/sidecar/localapi", []string{"internal/sidecar/journal", "internal/drain"}},
	{"internal/sidecar/specdir", []string{"internal/archive", "internal/signing", "internal/versions", "gen/sidecar"}},
	{"internal/sidecar/posture", []string{"internal/drain", "gen/sidecar"}},
	{"internal/sidecar/journal", []string{"internal/drain"}},
	{"internal/sidecar/execid", nil},
	{"internal/sidecar/gate", nil}, // what callers may make the sidecar hold, and what it refuses
	{"internal/sidecar/agent", nil},
	{"internal/sidecar/certs", nil}, // TLS to callers and to other sidecars
	{"internal/sidecar/certs/certstest", nil},
	{"internal/sidecar/http1", nil}, // requests to the agent

	// What a process shows of itself, and who may see it: of xds and of the sidecar alike.
	{"internal/telemetry", []string{"internal/auth"}},
	{"internal/auth", []string{"internal/roster"}},

	{"internal/archive/registry", []string{"internal/archive", "internal/versions"}},
	{"internal/archive", []string{"internal/versions"}},

	// Questions to other people's servers: judges and gates of canaries.
	{"internal/webhook", nil},
	// Executions that are none, which show what way a proxy sends them.
	{"internal/synthetic", nil},
	{"internal/promquery", nil},

	// Versions in a file, for moving between clusters: what export writes and import reads.
	{"internal/archive/bundle", []string{"internal/versions"}},
	// Signatures of versions: no I/O, so that people, the control plane and sidecars check by the same code.
	{"internal/signing", []string{"internal/versions"}},

	// Tests of the whole, and their support: they run the built commands and a real Envoy.
	{"internal/e2e", nil},
	{"internal/envoytest", []string{"internal/routing/envoy"}},
	{"internal/loopback", nil}, // ports for processes that tests start
	{"internal/registrytest", nil},
	{"internal/postmortem/boardtest", nil},
	{"internal/sidecar/fakecontrol", []string{"internal/versions", "gen/sidecar"}},

	{"internal/routing/envoy", []string{"internal/routing", "internal/versions", "internal/drain"}},
	{"internal/postmortem", []string{"internal/routing", "internal/rollout", "internal/rollout/evidence", "internal/versions", "internal/drain"}},
	{"internal/routing", []string{"internal/versions"}},
	{"internal/agentproto/a2a", []string{"internal/agentproto/jsonpeek"}}, // the skill a request asks for
	{"internal/agentproto/mcp", []string{"internal/agentproto/jsonpeek"}}, // the tools a request calls
	{"internal/agentproto/jsonpeek", nil},                                 // strings in the beginning of a document
	{"internal/agentproto/grpc", []string{"internal/agentproto"}},
	{"internal/agentproto/plain", []string{"internal/agentproto", "internal/drain"}},
	{"internal/agentproto/websocket", []string{"internal/agentproto"}}, // frames, and the close frame of a cut
	{"internal/agentproto/terminal", nil},                              // how the work ended, by the answer
	{"internal/agentproto", []string{"internal/drain"}},
	// What changed between two versions, for people.
	{"internal/specdiff", []string{"internal/versions", "internal/drain"}},
	// Reports of the tests that a version was put through.
	{"internal/conformance", nil},
	{"internal/versions", []string{"internal/rollout", "internal/drain", "internal/capture"}},
	// Canaries: plans, and the machine that follows one.
	{"internal/rollout", []string{"internal/rollout/evidence", "internal/drain", "internal/yamlerr"}},
	// The judge of canaries: tests on few failing executions, and what they can be expected to see.
	{"internal/rollout/evidence", nil},
	// Excerpts of failing executions, redacted.
	{"internal/capture", nil},
	// What a version makes of copies of requests, beside the requests.
	{"internal/shadow", nil},
	{"internal/drain", nil},
	// Who has a token of their own, and what they may do.
	{"internal/roster", []string{"internal/yamlerr"}},
	// What the YAML library says of a file, in words for who wrote it.
	{"internal/yamlerr", nil},
}

// pure packages read no clock, do no I/O and start no goroutine.
var pure = []string{
	"internal/agentproto", "internal/agentproto/a2a", "internal/agentproto/grpc", "internal/agentproto/jsonpeek", "internal/agentproto/mcp", "internal/agentproto/plain", "internal/agentproto/terminal", "internal/agentproto/websocket", "internal/capture", "internal/conformance", "internal/drain", "internal/postmortem",
	"internal/rollout", "internal/rollout/evidence", "internal/roster", "internal/routing", "internal/routing/envoy", "internal/shadow", "internal/specdiff", "internal/versions", "internal/yamlerr",
}

// sole names the one package that may import a library, by prefix of the library's path.
var sole = map[string]string{
	"go.etcd.io/":                   "internal/store",
	"github.com/hashicorp/go-memdb": "internal/store",
}

// file is one parsed source file that is no test.
type file struct {
	pkg  string // directory below the module root, forward slashes
	name string
	ast  *ast.File
}

func sources(t *testing.T, fset *token.FileSet, roots ...string) []file {
	t.Helper()
	var files []file
	for _, root := range roots {
		err := filepath.WalkDir(filepath.Join("..", root), func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "testdata" {
				return filepath.SkipDir
			}
			if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return nil
			}
			parsed, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			pkg := filepath.ToSlash(filepath.Dir(name))
			files = append(files, file{pkg: strings.TrimPrefix(pkg, "../"), name: name, ast: parsed})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(files) == 0 {
		t.Fatal("found no source file: the test looks in the wrong place")
	}
	return files
}

func imports(f file) []string {
	paths := make([]string, 0, len(f.ast.Imports))
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			panic(err) // the parser accepted it
		}
		paths = append(paths, p)
	}
	return paths
}

// short maps an import path of this module to the table's name for it, "" for other paths.
func short(importPath string) string {
	rest, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	if api, ok := strings.CutPrefix(rest, "gen/specproxy/"); ok {
		name, _, _ := strings.Cut(api, "/")
		return "gen/" + name
	}
	return rest
}

func TestImportsPointDown(t *testing.T) {
	level := map[string]int{}
	for i, a := range arrows {
		level[a.from] = i
	}
	allowed := map[string][]string{}
	for i, a := range arrows {
		allowed[a.from] = a.to
		for _, to := range a.to {
			if strings.HasPrefix(to, "gen/") {
				continue
			}
			if l, ok := level[to]; !ok || l <= i {
				t.Errorf("the table's own arrow %s -> %s does not point down", a.from, to)
			}
		}
	}
	for _, f := range sources(t, token.NewFileSet(), "internal", "cmd") {
		to, known := allowed[f.pkg]
		if !known {
			t.Errorf("%s: package %s is not in the table of arrows", f.name, f.pkg)
			continue
		}
		for _, imported := range imports(f) {
			if s := short(imported); s != "" && !slices.Contains(to, s) {
				t.Errorf("%s: %s may not import %s", f.name, f.pkg, s)
			}
			for prefix, owner := range sole {
				if strings.HasPrefix(imported, prefix) && f.pkg != owner {
					t.Errorf("%s: only %s may import %s", f.name, owner, imported)
				}
			}
		}
	}
}

func TestPurePackagesTouchNothing(t *testing.T) {
	for _, f := range sources(t, token.NewFileSet(), pure...) {
		for _, imported := range imports(f) {
			if impure(f.pkg, imported) {
				t.Errorf("%s: the pure package %s may not import %s", f.name, f.pkg, imported)
			}
		}
	}
}

// impure says whether a pure package that imports the path could touch the world through it.
func impure(pkg, imported string) bool {
	switch imported {
	case "net/http":
		// Its types are what the agents' protocols are written in.
		return !strings.HasPrefix(pkg, "internal/agentproto")
	case "net", "net/netip", "net/url", "net/textproto":
		// Of net itself only what takes addresses apart: TestPurePackagesReadNoClockDoNoIOAndStartNoGoroutine looks at each use.
		return false
	case "crypto/rand", "io/ioutil", "log", "math/rand", "math/rand/v2", "runtime", "syscall", "testing":
		return true
	}
	return slices.Contains([]string{"net", "os"}, strings.Split(imported, "/")[0]) || strings.HasPrefix(imported, "log/")
}

func TestPurePackagesReadNoClockDoNoIOAndStartNoGoroutine(t *testing.T) {
	addresses := []string{"JoinHostPort", "SplitHostPort"}
	clock := []string{"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until"}
	fset := token.NewFileSet()
	for _, f := range sources(t, fset, pure...) {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: a pure package starts no goroutine", fset.Position(n.Pos()))
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if ok && x.Name == localName(f, "time") && slices.Contains(clock, n.Sel.Name) {
					t.Errorf("%s: a pure package reads no clock: time.%s", fset.Position(n.Pos()), n.Sel.Name)
				}
				if ok && x.Name == localName(f, "net") && !slices.Contains(addresses, n.Sel.Name) {
					t.Errorf("%s: a pure package does no I/O: net.%s", fset.Position(n.Pos()), n.Sel.Name)
				}
			}
			return true
		})
	}
}

// localName is the name under which the file imports a package of one element, "" if it does not.
func localName(f file, importPath string) string {
	for _, spec := range f.ast.Imports {
		if spec.Path.Value == strconv.Quote(importPath) {
			if spec.Name != nil {
				return spec.Name.Name
			}
			return importPath
		}
	}
	return ""
}

// A sidecar runs beside every agent: it must stay small and quick to start, so the control plane is not to be linked into it.
func TestSidecarLinksNoControlPlane(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", module+"/cmd/specproxy").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	banned := []string{
		"go.etcd.io/", "github.com/hashicorp/go-memdb", "github.com/envoyproxy/",
		path.Join(module, "internal/store"), path.Join(module, "internal/control"), path.Join(module, "internal/discovery"),
		path.Join(module, "internal/fleet"), path.Join(module, "internal/api"),
		path.Join(module, "internal/controlplane"), path.Join(module, "internal/dashboard"),
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, module+"/internal/sidecar") {
		t.Fatalf("cmd/specproxy does not link internal/sidecar: is this the right command?\n%s", out)
	}
	for _, dep := range deps {
		for _, prefix := range banned {
			if strings.HasPrefix(dep, prefix) {
				t.Errorf("cmd/specproxy links %s", dep)
			}
		}
	}
}

func TestImpure(t *testing.T) {
	for _, c := range []struct {
		pkg, imported string
		want          bool
	}{
		{"internal/drain", "os", true},
		{"internal/drain", "os/exec", true},
		{"internal/drain", "net/http", true},
		{"internal/drain", "net/http/httptest", true},
		{"internal/drain", "log/slog", true},
		{"internal/drain", "crypto/rand", true},
		{"internal/drain", "crypto/sha256", false},
		{"internal/drain", "sync", false},
		{"internal/agentproto/plain", "net/http", false},
		{"internal/agentproto/plain", "net/http/httputil", true},
		{"internal/routing/envoy", "net/netip", false},
	} {
		if got := impure(c.pkg, c.imported); got != c.want {
			t.Errorf("impure(%q, %q) = %t, want %t", c.pkg, c.imported, got, c.want)
		}
	}
}

func TestShort(t *testing.T) {
	for in, want := range map[string]string{
		"fmt":                                "",
		module + "/internal/versions":        "internal/versions",
		module + "/gen/specproxy/sidecar/v1": "gen/sidecar",
		module + "/gen/specproxy/operator/v1/operatorv1connect": "gen/operator",
	} {
		if got := short(in); got != want {
			t.Errorf("short(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestTestsThatAreLongSaySo keeps make test-long, which finds its tests by name and file, from missing one.
func TestTestsThatAreLongSaySo(t *testing.T) {
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		named := strings.HasSuffix(name, "_long_test.go")
		tagged := len(file.Comments) > 0 && file.Comments[0].List[0].Text == "//go:build long"
		if named != tagged {
			t.Errorf("%s: the build tag \"long\" is for files *_long_test.go, and they have no other", name)
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") || f.Name.Name == "TestMain" {
				continue
			}
			if long := strings.HasPrefix(f.Name.Name, "TestLong"); long != tagged {
				t.Errorf("%s: %s: tests with the build tag \"long\", and no others, are called TestLong…", name, f.Name.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
