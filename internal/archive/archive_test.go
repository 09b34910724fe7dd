package archive_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/content/oci"
	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/versions"
)

func pack(t testing.TB, spec, version, prompt string) versions.Packed {
	t.Helper()
	p, err := versions.Pack(map[string][]byte{
		"spec.yaml": fmt.Appendf(nil, "name: %s\nversion: %s\ndocuments: [prompt.md, copy.md, empty]\n%s", spec, version, versions.SmallestInFlight),
		"prompt.md": []byte(prompt), "copy.md": []byte(prompt), "empty": {},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func open(t testing.TB, dir string) *archive.Archive {
	t.Helper()
	a, err := archive.Open(dir, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func put(t testing.TB, a *archive.Archive, p versions.Packed) {
	t.Helper()
	if err := a.Put(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func checkHolds(t testing.TB, a *archive.Archive, p versions.Packed) {
	t.Helper()
	got, err := a.Get(t.Context(), p.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, got); diff != "" {
		t.Fatalf("-put +got:\n%s", diff)
	}
}

// snapshot is every file of the layout with its content.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir+"/")] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func blobFile(dir, digest string) string {
	return filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
}

// damage replaces a blob's file behind the archive's back.
func damage(t testing.TB, dir, digest string, data []byte) {
	t.Helper()
	file := blobFile(dir, digest)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPutThenGetAfterReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "archive")
	a := open(t, dir)
	old, next := pack(t, "billing", "1.0.0", "be kind"), pack(t, "billing", "1.1.0", "be kind and brief")
	put(t, a, old)
	put(t, a, next)
	a = open(t, dir)
	checkHolds(t, a, old)
	checkHolds(t, a, next)
}

func TestPutIsIdempotent(t *testing.T) {
	dir := t.TempDir()
	a, p := open(t, dir), pack(t, "billing", "1.0.0", "be kind")
	put(t, a, p)
	first := snapshot(t, dir)
	put(t, a, p)
	put(t, open(t, dir), p)
	if diff := cmp.Diff(first, snapshot(t, dir)); diff != "" {
		t.Errorf("putting a version again changed the layout: -first +now:\n%s", diff)
	}
}

func TestPutRefusesWhatDoesNotFitTogether(t *testing.T) {
	dir := t.TempDir()
	a, p := open(t, dir), pack(t, "billing", "1.0.0", "be kind")
	before := snapshot(t, dir)
	p.Blobs[0].Data = append(bytes.Clone(p.Blobs[0].Data), '\n')
	var damaged *archive.Damaged
	if err := a.Put(t.Context(), p); !errors.As(err, &damaged) || damaged.Path != "spec.yaml" {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
		t.Errorf("a refused version left something: %s", diff)
	}
}

func TestGetOfWhatIsNotThere(t *testing.T) {
	a, p := open(t, t.TempDir()), pack(t, "billing", "1.0.0", "be kind")
	if _, err := a.Get(t.Context(), p.Digest); !errors.Is(err, archive.ErrNotFound) || !strings.Contains(err.Error(), p.Digest) {
		t.Errorf("got %v", err)
	}
	for _, digest := range []string{"", "latest", "sha256:", "sha256:../../../index.json", p.Digest + "0", strings.ToUpper(p.Digest)} {
		if _, err := a.Get(t.Context(), digest); err == nil || !strings.Contains(err.Error(), "not a digest") {
			t.Errorf("%q: got %v", digest, err)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Put(cancelled, p); !errors.Is(err, context.Canceled) {
		t.Errorf("Put with a cancelled context: %v", err)
	}
	if _, err := a.Get(t.Context(), p.Digest); !errors.Is(err, archive.ErrNotFound) {
		t.Errorf("after a cancelled Put: %v", err)
	}
}

// Whatever happens to a file, Get returns the whole version or a *Damaged that names the file's digest; another Put repairs it.
func TestDamageIsNeverServed(t *testing.T) {
	dir := t.TempDir()
	a, p := open(t, dir), pack(t, "billing", "1.0.0", "be kind")
	other := pack(t, "payroll", "1.0.0", "be exact")
	put(t, a, other)
	put(t, a, p)
	files := map[string][]byte{p.Digest: p.ManifestBytes}
	for _, b := range p.Blobs {
		files[b.Digest] = b.Data
	}
	digests := make([]string, 0, len(files))
	for digest := range maps.Keys(files) {
		if len(files[digest]) > 0 && !strings.Contains(string(files[digest]), "payroll") {
			digests = append(digests, digest)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		digest := rapid.SampledFrom(digests).Draw(rt, "digest")
		whole := files[digest]
		bad := rapid.OneOf(
			rapid.Map(rapid.IntRange(0, len(whole)-1), func(n int) []byte { return whole[:n] }),
			rapid.Map(rapid.IntRange(0, len(whole)-1), func(n int) []byte {
				flipped := bytes.Clone(whole)
				flipped[n] ^= 0x20
				return flipped
			}),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 1, 64), func(tail []byte) []byte { return append(bytes.Clone(whole), tail...) }),
			rapid.Just(make([]byte, len(whole))),
		).Draw(rt, "bad")
		damage(t, dir, digest, bad)

		got, err := a.Get(t.Context(), p.Digest)
		var damaged *archive.Damaged
		if !errors.As(err, &damaged) || damaged.Digest != digest || damaged.Got != versions.DigestOf(bad) {
			rt.Fatalf("served %+v, %v", got, err)
		}
		checkHolds(t, a, other)
		put(t, a, p)
		checkHolds(t, a, p)
	})
}

func TestMissingBlobIsDamage(t *testing.T) {
	dir := t.TempDir()
	a, p := open(t, dir), pack(t, "billing", "1.0.0", "be kind")
	put(t, a, p)
	if err := os.Remove(blobFile(dir, p.Blobs[1].Digest)); err != nil {
		t.Fatal(err)
	}
	_, err := a.Get(t.Context(), p.Digest)
	var damaged *archive.Damaged
	if !errors.As(err, &damaged) || damaged.Path != "copy.md" || damaged.Got != "" || errors.Is(err, archive.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	if want := fmt.Sprintf(`archive %s: document "copy.md" (%s) is missing`, dir, p.Blobs[1].Digest); !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %q, want %q", err, want)
	}
	put(t, a, p)
	checkHolds(t, a, p)
}

// A process that dies in the middle of Put leaves some prefix of its writes: each must open, hold what was there before, say "not found"
// or serve the whole version, and take the same Put again.
func TestEveryPrefixOfAPutIsConsistent(t *testing.T) {
	before, p := pack(t, "billing", "1.0.0", "be kind"), pack(t, "billing", "1.1.0", "be kind and brief")
	full := t.TempDir()
	a := open(t, full)
	put(t, a, before)
	start := snapshot(t, full)
	put(t, a, p)
	end := snapshot(t, full)

	// In the order of Put: blobs, the image manifest, the index; then one blob half written, as a crash of the machine can leave it.
	order := []string{}
	for _, b := range p.Blobs {
		order = append(order, "blobs/sha256/"+strings.TrimPrefix(b.Digest, "sha256:"))
	}
	order = append(order, "blobs/sha256/"+strings.TrimPrefix(p.Digest, "sha256:"), "index.json")
	for n := 0; n <= len(order); n++ {
		for _, torn := range []bool{false, true} {
			dir := t.TempDir()
			files := maps.Clone(start)
			for i, name := range order[:n] {
				files[name] = end[name]
				if torn && i == n-1 && name != "index.json" { // index.json is forced to disk before it gets its name
					files[name] = end[name][:len(end[name])/2]
				}
			}
			files["ingest/half_123"], files[".layout-123"] = "half", "half"
			for name, data := range files {
				file := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			a := open(t, dir)
			checkHolds(t, a, before)
			got, err := a.Get(t.Context(), p.Digest)
			var damaged *archive.Damaged
			if err == nil && cmp.Diff(p, got) != "" || err != nil && !errors.Is(err, archive.ErrNotFound) && !errors.As(err, &damaged) {
				t.Fatalf("after %d writes (torn: %v): %+v, %v", n, torn, got, err)
			}
			put(t, a, p)
			checkHolds(t, a, p)
			if diff := cmp.Diff(end, snapshot(t, dir)); diff != "" {
				t.Errorf("after %d writes (torn: %v) the same Put led elsewhere: %s", n, torn, diff)
			}
		}
	}
}

// stopping is a context that ends when it has been asked n times: Put asks before every blob.
type stopping struct {
	context.Context
	left int
}

func (s *stopping) Err() error {
	if s.left == 0 {
		return context.Canceled
	}
	s.left--
	return nil
}

// While a Put has not come to its end, the version is not there: its image manifest is written last.
func TestAStoppedPutStoredNothing(t *testing.T) {
	p := pack(t, "billing", "1.0.0", "be kind")
	steps := len(p.Blobs) + 2 // the empty config and the image manifest
	for n := range steps {
		a := open(t, t.TempDir())
		if err := a.Put(&stopping{t.Context(), n}, p); !errors.Is(err, context.Canceled) {
			t.Fatalf("stopped after %d of %d steps: %v", n, steps, err)
		}
		if _, err := a.Get(t.Context(), p.Digest); !errors.Is(err, archive.ErrNotFound) {
			t.Errorf("stopped after %d of %d steps, Get says %v", n, steps, err)
		}
		if _, err := a.Resolve(t.Context(), p.Ref()); !errors.Is(err, archive.ErrNotFound) {
			t.Errorf("stopped after %d of %d steps, Resolve says %v", n, steps, err)
		}
		put(t, a, p)
		checkHolds(t, a, p)
	}
}

func TestConcurrentPuts(t *testing.T) {
	dir := t.TempDir()
	packed := make([]versions.Packed, 8)
	for i := range packed {
		packed[i] = pack(t, "billing", fmt.Sprintf("1.%d.0", i/2), "the same prompt in all")
	}
	var g errgroup.Group
	for i := range 32 {
		g.Go(func() error {
			a, err := archive.Open(dir, zap.NewNop())
			if err != nil {
				return err
			}
			p := packed[i%len(packed)]
			if err := a.Put(t.Context(), p); err != nil {
				return err
			}
			got, err := a.Get(t.Context(), p.Digest)
			if err == nil && got.Digest != p.Digest {
				err = fmt.Errorf("asked for %s, got %s", p.Digest, got.Digest)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	a := open(t, dir)
	for _, p := range packed {
		checkHolds(t, a, p)
		if digest, err := a.Resolve(t.Context(), p.Ref()); err != nil || digest != p.Digest {
			t.Errorf("%s resolves to %s, %v", p.Ref(), digest, err)
		}
	}
}

func TestTags(t *testing.T) {
	a := open(t, t.TempDir())
	p, q := pack(t, "billing", "1.0.0", "be kind"), pack(t, "billing", "1.0.0", "be brief")
	resolve := func() string {
		t.Helper()
		digest, err := a.Resolve(t.Context(), p.Ref())
		if err != nil {
			t.Fatal(err)
		}
		return digest
	}
	if _, err := a.Resolve(t.Context(), p.Ref()); !errors.Is(err, archive.ErrNotFound) || !strings.Contains(err.Error(), "billing:1.0.0") {
		t.Errorf("got %v", err)
	}
	if err := a.Tag(t.Context(), p.Ref(), p.Digest); !errors.Is(err, archive.ErrNotFound) {
		t.Errorf("tagging what is not there: %v", err)
	}
	put(t, a, p)
	put(t, a, q)
	if got := resolve(); got != p.Digest {
		t.Errorf("a second Put moved the tag to %s", got)
	}
	for range 2 {
		if err := a.Tag(t.Context(), p.Ref(), q.Digest); err != nil {
			t.Fatal(err)
		}
		if got := resolve(); got != q.Digest {
			t.Errorf("the tag stayed at %s", got)
		}
	}
	put(t, a, p)
	if got := resolve(); got != q.Digest {
		t.Errorf("putting the old bytes again moved the tag to %s", got)
	}
	checkHolds(t, a, p)
	checkHolds(t, a, q)
	if err := a.Tag(t.Context(), versions.Ref{Spec: "billing", Version: "2.0.0"}, p.Digest); err == nil || !strings.Contains(err.Error(), "is billing:1.0.0, not billing:2.0.0") {
		t.Errorf("a false name: %v", err)
	}
}

func TestNoTwoVersionsShareATag(t *testing.T) {
	spec := rapid.StringMatching(`[a1]([-a1]{0,4}[a1])?`)
	version := rapid.StringMatching(`(0|1|11)\.(0|1)\.(0|1)(-[a1]?-?[a](\.[a0])?)?`)
	rapid.Check(t, func(t *rapid.T) {
		a := versions.Ref{Spec: spec.Draw(t, "spec a"), Version: version.Draw(t, "version a")}
		b := versions.Ref{Spec: spec.Draw(t, "spec b"), Version: version.Draw(t, "version b")}
		if a.Check() != nil || b.Check() != nil {
			t.Fatalf("the generator made %v, %v", a, b)
		}
		if a != b && archive.Tag(a) == archive.Tag(b) {
			t.Fatalf("%s and %s share the tag %s", a, b, archive.Tag(a))
		}
	})
}

// Another OCI tool opens the layout, finds the version by its tag, and copies it whole.
func TestOtherToolsReadTheLayout(t *testing.T) {
	dir := t.TempDir()
	a, p := open(t, dir), pack(t, "billing", "1.0.0-rc.1", "be kind")
	put(t, a, p)
	layout, err := oci.NewFromFS(t.Context(), os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	target := memory.New()
	desc, err := oras.Copy(t.Context(), layout, "billing-1.0.0-rc.1", target, "copied", oras.DefaultCopyOptions)
	if err != nil {
		t.Fatal(err)
	}
	if desc.Digest.String() != p.Digest || desc.ArtifactType != versions.ArtifactType {
		t.Errorf("copied %+v, want %s", desc, p.Digest)
	}
	r, err := target.Fetch(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	if image, err := io.ReadAll(r); err != nil || !bytes.Equal(image, p.ManifestBytes) {
		t.Errorf("the copy has %s, %v", image, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct{ file, data, want string }{
		"another layout version": {"oci-layout", `{"imageLayoutVersion":"9.0.0"}`, `names layout version "9.0.0"`},
		"damaged layout file":    {"oci-layout", `{`, "oci-layout is damaged"},
		"damaged index":          {"index.json", `{"schemaVersion":2,"manif`, "index.json is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := pack(t, "billing", "1.0.0", "be kind")
			put(t, open(t, dir), p)
			file := filepath.Join(dir, c.file)
			if err := os.WriteFile(file, []byte(c.data), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := archive.Open(dir, zap.NewNop()); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			// What the error says helps.
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			checkHolds(t, open(t, dir), p)
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Open(file, zap.NewNop()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file as the directory: %v", err)
	}
}

func TestLayoutIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	put(t, open(t, dir), pack(t, "billing", "1.0.0", "be kind"))
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the archive's directory is %v: others can read the specs", info.Mode())
	}
}

// The sidecar links this package: neither the control plane nor its storage engine may come with it.
func TestDependenciesAreLight(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Standard", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{
		"github.com/specproxy/specproxy/internal/archive", "github.com/specproxy/specproxy/internal/versions", "github.com/specproxy/specproxy/internal/drain",
		"github.com/specproxy/specproxy/internal/rollout",                                                    // pure: a manifest declares its plan
		"github.com/specproxy/specproxy/internal/capture", "github.com/specproxy/specproxy/internal/yamlerr", // pure: and what of failing executions may be kept
		"github.com/Masterminds/semver/", "github.com/opencontainers/", "github.com/rogpeppe/go-internal/lockedfile", "go.uber.org/zap", "go.uber.org/multierr",
		"go.yaml.in/yaml/", "golang.org/x/sync/", "oras.land/oras-go/",
	}
	d := json.NewDecoder(bytes.NewReader(out))
	for d.More() {
		var pkg struct {
			ImportPath string
			Standard   bool
		}
		if err := d.Decode(&pkg); err != nil {
			t.Fatal(err)
		}
		known := pkg.Standard
		for _, prefix := range allowed {
			known = known || strings.HasPrefix(pkg.ImportPath, prefix)
		}
		if !known {
			t.Errorf("the archive links %s", pkg.ImportPath)
		}
	}
}
