package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/archive/registry"
	"github.com/specproxy/specproxy/internal/registrytest"
	"github.com/specproxy/specproxy/internal/versions"
)

// repository that every test uses, of its own registry.
const repository = "agents/specs"

func pack(t testing.TB, version, prompt string) versions.Packed {
	t.Helper()
	p, err := versions.Pack(map[string][]byte{
		"spec.yaml": fmt.Appendf(nil, "name: billing\nversion: %s\ndocuments: [prompt.md, deep/empty]\n%s", version, versions.SmallestInFlight),
		"prompt.md": []byte(prompt), "deep/empty": {},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// open is a replica of its own: nothing but the registry is shared with the others.
func open(t testing.TB, host string, patience time.Duration) *registry.Archive {
	t.Helper()
	local, err := archive.Open(t.TempDir(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	a, err := registry.Open(registry.Options{Target: registry.Scheme + host + "/" + repository, Copy: local, Log: zap.NewNop(), Patience: patience})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func put(t testing.TB, a *registry.Archive, all ...versions.Packed) {
	t.Helper()
	for _, p := range all {
		if err := a.Put(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if err := a.Tag(t.Context(), p.Ref(), p.Digest); err != nil {
			t.Fatal(err)
		}
	}
}

func checkHolds(t testing.TB, a *registry.Archive, p versions.Packed) {
	t.Helper()
	got, err := a.Get(t.Context(), p.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, got); diff != "" {
		t.Fatalf("-put +got:\n%s", diff)
	}
}

func TestOpenRefusesWhatIsNoRepository(t *testing.T) {
	local, err := archive.Open(t.TempDir(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{
		"127.0.0.1:5000/specs":                                 "write oci://HOST",
		"oci://127.0.0.1:5000":                                 "write oci://HOST",
		"oci://127.0.0.1:5000/Specs":                           "write oci://HOST",
		"oci://127.0.0.1:5000/specs:latest":                    "without a tag",
		"oci://r.test/specs@sha256:" + fmt.Sprintf("%064d", 0): "without a tag",
	} {
		if _, err := registry.Open(registry.Options{Target: target, Copy: local, Log: zap.NewNop()}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", target, err, want)
		}
	}
}

func TestWhatOneReplicaPutsAnotherGets(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	old, next := pack(t, "1.0.0", "be kind"), pack(t, "1.1.0", "be kind and brief")
	a := open(t, r.Host, 0)
	put(t, a, old, next)
	put(t, a, old) // again, which changes nothing

	b := open(t, r.Host, 0)
	if _, err := b.Get(t.Context(), pack(t, "9.0.0", "").Digest); !errors.Is(err, archive.ErrNotFound) {
		t.Errorf("a version that nobody put: %v", err)
	}
	checkHolds(t, b, old)
	checkHolds(t, b, next)
	for _, p := range []versions.Packed{old, next} {
		if got, err := b.Resolve(t.Context(), p.Ref()); err != nil || got != p.Digest {
			t.Errorf("%s resolves to %s, %v", p.Ref(), got, err)
		}
		if _, err := b.Check(t.Context(), p.Ref(), p.Digest); err != nil {
			t.Error(err)
		}
	}
	// What was read once is served while the registry is away.
	r.Stop()
	checkHolds(t, b, old)
	var away *archive.Unreachable
	if _, err := b.Check(t.Context(), old.Ref(), old.Digest); !errors.As(err, &away) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("checking an archive that is away: %v", err)
	}
	if err := b.Put(t.Context(), pack(t, "1.2.0", "be brief")); !errors.As(err, &away) {
		t.Errorf("putting into an archive that is away: %v", err)
	}
	if _, err := b.Held(t.Context()); !errors.As(err, &away) {
		t.Errorf("listing an archive that is away: %v", err)
	}
}

// A version is whole for other tools and safe from collectors at every moment after Put, tagged or not: the control plane may die in between.
func TestCollectorOfUntaggedBlobsTakesNoVersion(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	a := open(t, r.Host, 0)
	tagged, untagged := pack(t, "1.0.0", "be kind"), pack(t, "1.1.0", "be kind and brief")
	put(t, a, tagged)
	if err := a.Put(t.Context(), untagged); err != nil {
		t.Fatal(err)
	}
	moved := pack(t, "1.0.0", "be someone else")
	if err := a.Put(t.Context(), moved); err != nil {
		t.Fatal(err)
	}
	if err := a.Tag(t.Context(), moved.Ref(), moved.Digest); err != nil { // takes the version's tag from the first one
		t.Fatal(err)
	}
	at, err := versions.NewAttachment(tagged, versions.TypeConformance, versions.MediaTypeJSON, "smoke", []byte(`{"passed":1}`), "ci", time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.PutAttachment(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	// The control: something that no tag keeps.
	loose := pack(t, "6.6.6", "of no use")
	pushUntagged(t, r.Host, loose)

	said, err := r.CollectGarbage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said, loose.Digest) {
		t.Fatalf("the collector took nothing, so that this test shows nothing:\n%s", said)
	}
	r.Stop()
	again := registrytest.Start(t, registrytest.Options{Dir: r.Dir})
	b := open(t, again.Host, 0)
	for _, p := range []versions.Packed{tagged, untagged, moved} {
		checkHolds(t, b, p)
	}
	if _, err := b.Get(t.Context(), loose.Digest); !errors.Is(err, archive.ErrNotFound) {
		t.Errorf("what no tag keeps: %v", err)
	}
	if got, err := b.Attachments(t.Context(), tagged.Digest, ""); err != nil || len(got) != 1 || !bytes.Equal(got[0].Data, at.Data) {
		t.Errorf("attachments after the collector: %v, %v", got, err)
	}
}

// pushUntagged writes a version as a tool does that goes by digest alone.
func pushUntagged(t *testing.T, host string, p versions.Packed) {
	t.Helper()
	dir := t.TempDir()
	for _, b := range append([]versions.Blob{versions.EmptyConfig, {Digest: p.Digest, Data: p.ManifestBytes}}, p.Blobs...) {
		file := filepath.Join(dir, strings.TrimPrefix(b.Digest, "sha256:"))
		if err := os.WriteFile(file, b.Data, 0o600); err != nil {
			t.Fatal(err)
		}
		verb := []string{"blob", "push"}
		if b.Digest == p.Digest {
			continue
		}
		oras(t, append(verb, "--plain-http", host+"/"+repository+"@"+b.Digest, file)...)
	}
	oras(t, "manifest", "push", "--plain-http", "--media-type", versions.MediaTypeImage, host+"/"+repository+"@"+p.Digest, filepath.Join(dir, strings.TrimPrefix(p.Digest, "sha256:")))
}

func oras(t *testing.T, args ...string) string {
	t.Helper()
	return tool(t, "oras", nil, args...)
}

func tool(t *testing.T, name string, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), registrytest.Tool(t, name), args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestHeldFindsEverythingInTheRegistry(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	a := open(t, r.Host, 0)
	if held, err := a.Held(t.Context()); err != nil || len(held) != 0 {
		t.Fatalf("a repository that does not exist yet holds %v, %v", held, err)
	}
	first, other, second := pack(t, "1.0.0", "be kind"), pack(t, "1.0.0", "be unkind"), pack(t, "2.0.0-rc.1", "be brief")
	put(t, a, first, second)
	if err := a.Put(t.Context(), other); err != nil { // the loser of a race
		t.Fatal(err)
	}
	// Another tool knows nothing of the tags that keep.
	copied := pack(t, "3.0.0", "be copied")
	elsewhere := registrytest.Start(t, registrytest.Options{})
	put(t, open(t, elsewhere.Host, 0), copied)
	oras(t, "copy", "--from-plain-http", "--to-plain-http", elsewhere.Host+"/"+repository+":billing-3.0.0", r.Host+"/"+repository+":billing-3.0.0")
	// And somebody has a picture in the same repository.
	oras(t, "push", "--plain-http", "--disable-path-validation", r.Host+"/"+repository+":logo-1.0", os.Args[0]+":application/octet-stream")

	held, err := open(t, r.Host, 0).Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		Ref    string
		Tagged bool
	}
	got, strangers := map[string]line{}, 0
	for _, h := range held {
		if h.Err != nil {
			strangers++
			continue
		}
		got[h.Digest] = line{h.Ref.String(), h.Tagged}
	}
	want := map[string]line{
		first.Digest: {"billing:1.0.0", true}, other.Digest: {"billing:1.0.0", false},
		second.Digest: {"billing:2.0.0-rc.1", true}, copied.Digest: {"billing:3.0.0", true},
	}
	if diff := cmp.Diff(want, got); diff != "" || strangers != 1 {
		t.Errorf("%d strangers; -want +got:\n%s", strangers, diff)
	}
}

func TestTagThatMovedIsSeen(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	a := open(t, r.Host, 0)
	p, q := pack(t, "1.0.0", "be kind"), pack(t, "1.1.0", "be brief")
	put(t, a, p, q)
	oras(t, "tag", "--plain-http", r.Host+"/"+repository+"@"+q.Digest, "billing-1.0.0")
	var moved *archive.Mistagged
	if _, err := a.Check(t.Context(), p.Ref(), p.Digest); !errors.As(err, &moved) || moved.Got != q.Digest {
		t.Errorf("a tag that moved: %v", err)
	}
	checkHolds(t, open(t, r.Host, 0), p) // nothing here goes by tags
	put(t, a, p)
	if _, err := a.Check(t.Context(), p.Ref(), p.Digest); err != nil {
		t.Errorf("after putting it again: %v", err)
	}
}

// distribution has no referrers API, so that this is the specification's fallback.
func TestAttachmentsOfARegistryWithoutReferrersAPI(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	a := open(t, r.Host, 0)
	p, q := pack(t, "1.0.0", "be kind"), pack(t, "1.1.0", "be brief")
	put(t, a, p, q)
	var want []string
	for n := range 3 {
		at, err := versions.NewAttachment(p, versions.TypeConformance, versions.MediaTypeJSON, "smoke", fmt.Appendf(nil, `{"passed":%d}`, n), "ci", time.Unix(int64(n), 0))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, at.Digest)
		for range 2 { // repeating changes nothing
			if err := open(t, r.Host, 0).PutAttachment(t.Context(), at); err != nil {
				t.Fatal(err)
			}
		}
	}
	all, err := open(t, r.Host, 0).Attachments(t.Context(), p.Digest, versions.TypeConformance)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, at := range all {
		got = append(got, at.Digest)
	}
	if !slices.Equal(got, want) {
		t.Errorf("attachments are %v, want %v", got, want)
	}
	for _, subject := range []string{q.Digest, pack(t, "9.0.0", "").Digest} {
		if all, err := a.Attachments(t.Context(), subject, ""); err != nil || len(all) != 0 {
			t.Errorf("attachments of %s: %v, %v", subject, all, err)
		}
	}
	if all, err := a.Attachments(t.Context(), p.Digest, versions.TypeSignature); err != nil || len(all) != 0 {
		t.Errorf("signatures: %v, %v", all, err)
	}
	if err := os.WriteFile(r.Blob(all[1].Blob().Digest), []byte(`{"passed":9}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var damaged *archive.Damaged
	if _, err := a.Attachments(t.Context(), p.Digest, ""); !errors.As(err, &damaged) {
		t.Errorf("a damaged report: %v", err)
	}
	if err := os.WriteFile(r.Blob(all[1].Blob().Digest), all[1].Data, 0o600); err != nil {
		t.Fatal(err)
	}
	// Other tools find them where the specification says.
	var tree struct {
		Referrers []struct{ Digest string }
	}
	if err := json.Unmarshal([]byte(oras(t, "discover", "--plain-http", "--format", "json", r.Host+"/"+repository+"@"+p.Digest)), &tree); err != nil {
		t.Fatal(err)
	}
	if len(tree.Referrers) != 3 {
		t.Errorf("oras discovers %v", tree)
	}
	// What was seen is still known while the registry is away, and nothing else.
	b := open(t, r.Host, 0)
	checkHolds(t, b, p)
	if _, err := b.Attachments(t.Context(), p.Digest, ""); err != nil {
		t.Fatal(err)
	}
	r.Stop()
	if again, err := b.Attachments(t.Context(), p.Digest, ""); err != nil || cmp.Diff(all, again) != "" {
		t.Errorf("attachments while the registry is away: %v, %v", again, err)
	}
}

func TestDownSaysSo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	a := open(t, host, 0)
	var away *archive.Unreachable
	_, err = a.Get(t.Context(), pack(t, "1.0.0", "be kind").Digest)
	if !errors.As(err, &away) || errors.Is(err, archive.ErrNotFound) || !strings.Contains(err.Error(), "oci://"+host+"/agents/specs does not answer: connection refused") {
		t.Errorf("got %v", err)
	}
}

func TestErrorsOfTheRegistryAreQuoted(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	proxy := registrytest.StartProxy(t, r.Host)
	for status, want := range map[int]string{
		http.StatusInternalServerError: "500 Internal Server Error",
		http.StatusTooManyRequests:     "429 Too Many Requests",
		http.StatusForbidden:           "must pull and push",
	} {
		proxy.Before(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(status); return true })
		a := open(t, proxy.Host, time.Second)
		var away *archive.Unreachable
		if err := a.Put(t.Context(), pack(t, "1.0.0", "be kind")); !errors.As(err, &away) || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v, want %q", status, err, want)
		}
	}
	// One that recovers is not noticed.
	failures := 2
	proxy.Before(func(w http.ResponseWriter, _ *http.Request) bool {
		if failures == 0 {
			return false
		}
		failures--
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	a, p := open(t, proxy.Host, 0), pack(t, "1.0.0", "be kind")
	put(t, a, p)
}
