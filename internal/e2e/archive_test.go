package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/archive/registry"
	"github.com/specproxy/specproxy/internal/controlplane"
	"github.com/specproxy/specproxy/internal/registrytest"
	"github.com/specproxy/specproxy/internal/versions"
)

// specFolder writes a version's folder with one document, and returns it with the digest that it must get.
func specFolder(t *testing.T, spec, version, prompt string) (dir, digest string) {
	t.Helper()
	dir = t.TempDir()
	files := map[string][]byte{
		"spec.yaml": fmt.Appendf(nil, "name: %s\nversion: %s\ndocuments: [prompt.md]\n%s", spec, version, versions.SmallestInFlight),
		"prompt.md": []byte(prompt),
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	packed, err := versions.Pack(files)
	if err != nil {
		t.Fatal(err)
	}
	return dir, packed.Digest
}

// in makes a control plane keep its versions in a registry.
func in(r *registrytest.Registry) func(*controlplane.Options) {
	return func(o *controlplane.Options) { o.Archive = registry.Scheme + r.Host + "/agents/specs" }
}

// run wants an exit code, and text in the output.
func (w *world) run(code int, wants []string, args ...string) string {
	w.t.Helper()
	out, got := w.specctl(args...)
	if got != code {
		w.t.Errorf("specctl %s exits %d, want %d:\n%s", strings.Join(args, " "), got, code, out)
	}
	for _, want := range wants {
		if !strings.Contains(out, want) {
			w.t.Errorf("specctl %s does not say %q:\n%s", strings.Join(args, " "), want, out)
		}
	}
	return out
}

// Fifty processes publish different bytes under one version: one of them wins, the others are told both digests, and what is on record is whole.
func TestOfFiftyPublishersOneWins(t *testing.T) {
	for name, change := range map[string]func(*controlplane.Options){"layout": nil, "registry": in(registrytest.Start(t, registrytest.Options{}))} {
		t.Run(name, func(t *testing.T) {
			w := startPlane(t, change)
			const publishers = 50
			dirs, digests := make([]string, publishers), make([]string, publishers)
			for n := range publishers {
				dirs[n], digests[n] = specFolder(t, "shop", "1.0.0", fmt.Sprintf("be number %d", n))
			}
			outs, codes := make([]string, publishers), make([]int, publishers)
			var all sync.WaitGroup
			begin := make(chan struct{})
			for n := range publishers {
				all.Go(func() {
					<-begin
					outs[n], codes[n] = w.specctl("publish", dirs[n])
				})
			}
			close(begin)
			all.Wait()
			winner := slices.Index(codes, 0)
			if winner < 0 {
				t.Fatalf("nobody won: %v\n%s", codes, outs[0])
			}
			for n := range publishers {
				switch {
				case n == winner:
					if !strings.Contains(outs[n], digests[n]) {
						t.Errorf("the winner published %s and is told\n%s", digests[n], outs[n])
					}
				case codes[n] != 1:
					t.Errorf("publisher %d exits %d beside the winner %d:\n%s", n, codes[n], winner, outs[n])
				case !strings.Contains(outs[n], digests[winner]) || !strings.Contains(outs[n], digests[n]):
					t.Errorf("publisher %d (%s) is not told both digests; the winner is %s:\n%s", n, digests[n], digests[winner], outs[n])
				}
			}
			w.run(0, []string{"1 version in ", "1 whole, 0 not"}, "verify", "--all")
			if got := w.version("shop:1.0.0").GetDigest(); got != digests[winner] {
				t.Errorf("on record is %s, the winner published %s", got, digests[winner])
			}
			w.run(0, []string{digests[winner]}, "publish", dirs[winner])
		})
	}
}

// A document that was damaged in the archive is reported, never reaches an agent, and is repaired by publishing the same folder.
func TestDamageIsReportedAndNeverReachesAnAgent(t *testing.T) {
	w := startPlane(t, nil)
	agent := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(agent.Close)
	whole, _ := specFolder(t, "shop", "1.0.0", "be kind")
	dir, digest := specFolder(t, "shop", "1.1.0", "be brief")
	w.run(0, nil, "publish", whole)
	w.run(0, nil, "publish", dir)
	w.run(0, []string{"2 versions in " + filepath.Join(w.dataDir, "archive"), "2 whole, 0 not; 4 documents"}, "verify", "--all")

	blob := filepath.Join(w.dataDir, "archive", "blobs", "sha256", strings.TrimPrefix(versions.DigestOf([]byte("be brief")), "sha256:"))
	if err := os.Remove(blob); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blob, []byte("be brisk"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.run(1, []string{`damaged: shop:1.1.0: document "prompt.md" is damaged`, "next: specctl publish DIR", "1 whole, 1 not", "1 version is not whole"}, "verify", "--all")
	w.run(1, []string{`"state": "damaged"`, `"digest": "` + digest + `"`}, "verify", "shop:1.1.0", "-o", "json")
	w.run(0, []string{"1 whole, 0 not"}, "verify", "shop:1.0.0")
	w.run(1, []string{"spec stop does not exist"}, "verify", "stop")
	w.run(2, nil, "verify")

	sidecar := w.sidecar("shop:1.1.0", agent.URL)
	eventually(t, "the sidecar to say why it does not start", func() error {
		if said := sidecar.log.String(); !strings.Contains(said, "is damaged") {
			return fmt.Errorf("it says %s", said)
		}
		return nil
	})
	if pool := w.version("shop:1.1.0").GetPool(); pool.GetReady() != 0 {
		t.Errorf("an instance of a damaged version is ready: %v", pool)
	}
	w.run(0, []string{"published before with the same content"}, "publish", dir)
	w.run(0, []string{"2 whole, 0 not"}, "verify", "shop")
	w.sidecar("shop:1.1.0", agent.URL)
	eventually(t, "a ready instance after the repair", func() error {
		if pool := w.version("shop:1.1.0").GetPool(); pool.GetReady() == 0 {
			return fmt.Errorf("the pool is %v", pool)
		}
		return nil
	})
}

// The records are lost with etcd's data; what the archive holds is enough to make them again. Names with several contents are shown.
func TestRecordsAreRebuiltFromTheArchiveAlone(t *testing.T) {
	t.Run("registry", func(t *testing.T) {
		r := registrytest.Start(t, registrytest.Options{})
		rebuild(t, startPlane(t, in(r)), func() *world { return startPlane(t, in(r)) })
	})
	t.Run("layout", func(t *testing.T) {
		first := startPlane(t, nil)
		rebuild(t, first, func() *world {
			return startPlane(t, func(o *controlplane.Options) {
				if err := os.CopyFS(filepath.Join(o.DataDir, "archive"), os.DirFS(filepath.Join(first.dataDir, "archive"))); err != nil {
					t.Fatal(err)
				}
			})
		})
	})
}

func rebuild(t *testing.T, first *world, lose func() *world) {
	t.Helper()
	digests := map[string]string{}
	for _, ref := range []string{"shop:1.0.0", "shop:1.1.0-rc.1", "desk:3.0.0"} {
		spec, version, _ := strings.Cut(ref, ":")
		dir, digest := specFolder(t, spec, version, "be "+ref)
		first.run(0, nil, "publish", dir)
		digests[ref] = digest
	}
	second := lose()
	second.run(0, []string{"desk:3.0.0 " + digests["desk:3.0.0"], "3 would be imported, 0 known"}, "import", "--from-archive", "--dry-run")
	second.run(0, []string{"3 would be imported, 0 known"}, "import", "--from-archive", "--dry-run") // it changed nothing
	second.run(0, []string{"3 imported, 0 known, 0 conflicts, 0 damaged"}, "import", "--from-archive")
	second.run(0, []string{"0 imported, 3 known, 0 conflicts, 0 damaged"}, "import", "--from-archive")
	for ref, digest := range digests {
		if v := second.version(ref); v.GetDigest() != digest || v.GetStanding() != "published" {
			t.Errorf("%s came back as %s, %s; it was %s", ref, v.GetDigest(), v.GetStanding(), digest)
		}
	}
	second.run(0, []string{"3 whole, 0 not"}, "verify", "--all")

	// A control plane that had lost its records, and did not import, published something else under a name.
	third := lose()
	dir, other := specFolder(t, "shop", "1.0.0", "be someone else")
	third.run(0, nil, "publish", dir)
	third.run(1, []string{"conflict: shop:1.0.0", digests["shop:1.0.0"], other + " (tagged)", "2 imported, 0 known, 1 conflict"}, "import", "--from-archive")
	if got := third.version("shop:1.0.0").GetDigest(); got != other {
		t.Errorf("an import changed a record to %s", got)
	}
	if !strings.HasPrefix(third.run(0, nil, "verify", "--all"), "3 versions in oci://") {
		return // a layout was copied; only a registry is shared
	}
	second.run(1, []string{"mistagged: shop:1.0.0", other}, "verify", "shop")
	fourth := lose()
	fourth.run(1, []string{"conflict: shop:1.0.0", "--choose shop:1.0.0@" + other, "2 imported, 0 known, 1 conflict"}, "import", "--from-archive")
	fourth.run(1, []string{"the archive holds no shop:1.0.0 as sha256:0"}, "import", "--from-archive", "--choose", "shop:1.0.0@sha256:0")
	fourth.run(0, []string{"shop:1.0.0 " + digests["shop:1.0.0"], "1 imported, 2 known"}, "import", "--from-archive", "--choose", "shop:1.0.0@"+digests["shop:1.0.0"])
	fourth.run(0, []string{"3 whole, 0 not"}, "verify", "--all") // the choice took the tag back
}

// While the registry is away nothing is published and nothing is lost: traffic, rollbacks and versions that were seen go on.
func TestRegistryThatIsAwayStopsOnlyPublishing(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	w := startPlane(t, in(r))
	agent := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(agent.Close)
	for _, version := range []string{"1.0.0", "1.1.0"} {
		dir, _ := specFolder(t, "shop", version, "be "+version)
		w.run(0, nil, "publish", dir)
		w.sidecar("shop:"+version, agent.URL)
		w.ready("shop", version, 1)
		w.deploy("shop", version)
	}
	r.Stop()
	dir, _ := specFolder(t, "shop", "1.2.0", "be away")
	w.run(1, []string{"does not answer: connection refused; nothing was changed", "next: publish again"}, "publish", dir)
	if out := w.run(0, nil, "versions", "shop"); strings.Contains(out, "1.2.0") {
		t.Errorf("a version that could not be stored is on record:\n%s", out)
	}
	if change := w.rollback("shop"); change.GetTarget() != "1.0.0" {
		t.Errorf("the rollback went to %v", change)
	}
	w.sidecar("shop:1.0.0", agent.URL) // on a machine that has no copy yet
	w.ready("shop", "1.0.0", 2)
	w.run(1, []string{"unread: shop:1.0.0", "connection refused", "0 whole, 2 not"}, "verify", "--all")

	registrytest.Start(t, registrytest.Options{Dir: r.Dir, Host: r.Host})
	w.run(0, nil, "publish", dir)
	w.run(0, []string{"3 whole, 0 not"}, "verify", "--all")
}

// Pages of versions and of the fleet join to the whole list, without repeats and gaps.
func TestPagesJoin(t *testing.T) {
	w := startPlane(t, nil)
	for n := range 7 {
		for _, spec := range []string{"shop", fmt.Sprintf("desk-%d", n)} {
			dir, _ := specFolder(t, spec, fmt.Sprintf("1.%d.0", n), "be brief")
			w.run(0, nil, "publish", dir)
		}
	}
	more := regexp.MustCompile(`more: specctl (.*)\n`)
	join := func(lines *regexp.Regexp, args ...string) (all []string) {
		for range 20 {
			out := w.run(0, nil, args...)
			for _, m := range lines.FindAllStringSubmatch(out, -1) {
				all = append(all, m[1])
			}
			next := more.FindStringSubmatch(out)
			if next == nil {
				return all
			}
			args = strings.Fields(next[1])
		}
		t.Fatalf("%v has no end", args)
		return nil
	}
	version := regexp.MustCompile(`(?m)^(1\.\d\.0)`)
	if got := join(version, "versions", "shop", "--limit", "3"); strings.Join(got, " ") != "1.6.0 1.5.0 1.4.0 1.3.0 1.2.0 1.1.0 1.0.0" {
		t.Errorf("versions: %v", got)
	}
	if got := join(version, "versions", "shop", "--limit", "3", "--standing", "good"); len(got) != 0 {
		t.Errorf("good versions: %v", got)
	}
	if got := join(version, "versions", "shop", "--prefix", "1.4"); strings.Join(got, " ") != "1.4.0" {
		t.Errorf("versions 1.4: %v", got)
	}
	name := regexp.MustCompile(`(?m)^(shop|desk-\d)$`)
	got := join(name, "--limit", "3")
	slices.Sort(got)
	if strings.Join(got, " ") != "desk-0 desk-1 desk-2 desk-3 desk-4 desk-5 desk-6 shop" {
		t.Errorf("the fleet: %v", got)
	}
	if got := join(name, "--limit", "2", "--prefix", "desk"); strings.Join(got, " ") != "desk-0 desk-1 desk-2 desk-3 desk-4 desk-5 desk-6" {
		t.Errorf("specs by name: %v", got)
	}
	// Trouble comes first, wherever the spec was before.
	if _, err := w.client.Deploy(t.Context(), connect.NewRequest(&operatorv1.DeployRequest{Refs: []*operatorv1.Ref{{Spec: "desk-4", Version: "1.4.0"}}, Now: true})); err != nil {
		t.Fatal(err)
	}
	if out := w.run(0, []string{"8 specs, 1 in trouble"}, "--limit", "1"); !strings.Contains(out, "\ndesk-4\n") {
		t.Errorf("trouble does not come first:\n%s", out)
	}
	w.run(1, []string{"none of ours"}, "--after", "nonsense")
	w.run(1, []string{"at most 1000"}, "versions", "shop", "--limit", "1001")
}

// bin/xds itself takes the flag, and says what is wrong with it.
func TestXDSRefusesAnArchiveThatIsNone(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), filepath.Join(binDir, "xds"), "--data-dir", t.TempDir(), "--api", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--archive", "registry.test/specs").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "write oci://HOST[:PORT]/REPOSITORY") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Folders that mean harm or mean well and are too much: each is refused with the limit and what to do, and nothing of it is kept.
func TestFoldersThatAreTooMuchAreRefused(t *testing.T) {
	w := startPlane(t, nil)
	dir, _ := specFolder(t, "shop", "1.0.0", "be kind")
	large := filepath.Join(dir, "prompt.md")
	if err := os.Truncate(large, 100<<20); err != nil { // a hole: it has 100 MB and costs none
		t.Fatal(err)
	}
	const limit = `shop:1.0.0: with document "prompt.md" the version is larger than 64 MiB`
	w.run(1, []string{limit}, "publish", dir)
	if err := os.Remove(large); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", large); err != nil {
		t.Fatal(err)
	}
	w.run(1, []string{`"prompt.md" is a link`}, "publish", dir)

	// The API is open to other clients than ours.
	manifest, err := os.ReadFile(filepath.Join(dir, "spec.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	send := func(files ...*operatorv1.File) error {
		files = append(files, &operatorv1.File{Path: "spec.yaml", Content: manifest})
		_, err := w.client.Publish(t.Context(), connect.NewRequest(&operatorv1.PublishRequest{Files: files}))
		return err
	}
	many := make([]*operatorv1.File, 100_000)
	for n := range many {
		many[n] = &operatorv1.File{Path: fmt.Sprint(n)}
	}
	for name, c := range map[string]struct {
		files []*operatorv1.File
		want  string
	}{
		"100 MB":              {[]*operatorv1.File{{Path: "prompt.md", Content: make([]byte, 100<<20)}}, limit},
		"more than a message": {[]*operatorv1.File{{Path: "prompt.md", Content: make([]byte, 129<<20)}}, "larger than configured max"},
		"very many files":     {many, "100001 files were sent: a version has at most 1000 documents"},
		"twice the same path": {[]*operatorv1.File{{Path: "prompt.md"}, {Path: "prompt.md"}}, "file prompt.md was sent twice"},
		"a path upwards":      {[]*operatorv1.File{{Path: "../prompt.md"}}, `document "prompt.md" is named in spec.yaml but is not in the folder`},
	} {
		if err := send(c.files...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	w.run(1, []string{"spec shop does not exist"}, "versions", "shop")
	blobs, err := os.ReadDir(filepath.Join(w.dataDir, "archive", "blobs", "sha256"))
	if err != nil || len(blobs) != 0 {
		t.Errorf("the archive holds %d blobs of what was refused, %v", len(blobs), err)
	}
}
