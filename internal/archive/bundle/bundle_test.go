package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry"

	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/archive/bundle"
	"github.com/specproxy/specproxy/internal/versions"
)

func pack(t testing.TB, version, prompt string) versions.Packed {
	t.Helper()
	p, err := versions.Pack(map[string][]byte{
		"spec.yaml": fmt.Appendf(nil, "name: customer-service\nversion: %s\ndocuments: [prompt.md]\n%s", version, versions.SmallestInFlight),
		"prompt.md": []byte(prompt),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func report(t testing.TB, p versions.Packed) versions.Attachment {
	t.Helper()
	at, err := versions.NewAttachment(p, versions.TypeConformance, versions.MediaTypeJSON, "refunds", []byte(`{"tests":[]}`), "ada", time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func write(t testing.TB, entries ...bundle.Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := bundle.Write(&b, entries); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// two is a file with two versions, one of which has a report.
func two(t testing.TB) ([]bundle.Entry, []byte) {
	t.Helper()
	a, b := pack(t, "2.0.3", "one"), pack(t, "2.1.0", "two")
	entries := []bundle.Entry{{Version: a, Attachments: []versions.Attachment{report(t, a)}}, {Version: b}}
	return entries, write(t, entries...)
}

func TestRoundTrip(t *testing.T) {
	entries, file := two(t)
	got, err := bundle.Read(bytes.NewReader(file), bundle.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(bundle.Bundle{Entries: entries}, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	again := write(t, entries[1], entries[0])
	if !bytes.Equal(file, again) {
		t.Error("the same versions in another order gave another file")
	}
}

// What Write wrote is an OCI image layout once it is unpacked: oras finds the versions by tag and the reports by their subject.
func TestOtherToolsReadIt(t *testing.T) {
	entries, file := two(t)
	dir := t.TempDir()
	for name, data := range untar(t, file) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := oci.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		image, err := store.Resolve(t.Context(), e.Version.Ref().Tag())
		if err != nil {
			t.Fatal(err)
		}
		data, err := content.FetchAll(t.Context(), store, image)
		if err != nil || !bytes.Equal(data, e.Version.ManifestBytes) {
			t.Errorf("%s: %v; another manifest than was written", e.Version.Ref(), err)
		}
		found, err := registry.Referrers(t.Context(), store, image, versions.TypeConformance)
		if err != nil || len(found) != len(e.Attachments) {
			t.Errorf("%s: %d referrers, %v; want %d", e.Version.Ref(), len(found), err, len(e.Attachments))
		}
	}
	// And our own archive takes the unpacked folder as it is.
	a, err := archive.Open(dir, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if at, err := a.Attachments(t.Context(), entries[0].Version.Digest, ""); err != nil || len(at) != 1 {
		t.Errorf("attachments in an archive made of it: %v, %v", at, err)
	}
}

// What oras copied out of an archive is read, whatever else lies beside it.
func TestItReadsWhatOtherToolsWrote(t *testing.T) {
	entries, file := two(t)
	files := untar(t, file)
	var index ocispec.Index
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	for i := range index.Manifests {
		// Other tools name tags as they like, and repeat nothing of the manifest.
		index.Manifests[i].ArtifactType = ""
		index.Manifests[i].Annotations = map[string]string{ocispec.AnnotationRefName: fmt.Sprint("v", i)}
	}
	files["index.json"] = mustJSON(t, index)
	files["manifest.json"] = []byte("[]")
	got, err := bundle.Read(bytes.NewReader(retar(t, files)), bundle.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(entries, got.Entries, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if d := cmp.Diff([]string{`"manifest.json" is no part of an OCI image layout`}, got.Ignored); d != "" {
		t.Errorf("ignored (-want +got):\n%s", d)
	}
}

// A file that is cut off anywhere is refused, or by luck whole: never read in part.
func TestTruncatedAnywhere(t *testing.T) {
	entries, file := two(t)
	for n := 0; n < len(file); n += 97 {
		got, err := bundle.Read(bytes.NewReader(file[:n]), bundle.DefaultLimits)
		if err == nil && len(got.Entries) != len(entries) {
			t.Fatalf("cut off at %d of %d: %d versions and no error", n, len(file), len(got.Entries))
		}
		if n < len(file)-3*512 && err == nil {
			t.Fatalf("cut off at %d of %d: no error", n, len(file))
		}
	}
}

func TestEveryFlippedByteIsNoticed(t *testing.T) {
	entries, file := two(t)
	want := map[string]bool{}
	for _, e := range entries {
		want[e.Version.Digest] = true
	}
	for n := 0; n < len(file); n += 41 {
		damaged := bytes.Clone(file)
		damaged[n] ^= 0x20
		got, err := bundle.Read(bytes.NewReader(damaged), bundle.DefaultLimits)
		if err != nil {
			continue
		}
		for _, e := range got.Entries {
			if !want[e.Version.Digest] {
				t.Fatalf("byte %d flipped: a version %s appeared", n, e.Version.Digest)
			}
			if err := e.Version.Verify(); err != nil {
				t.Fatalf("byte %d flipped: %v", n, err)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	entries, file := two(t)
	good := untar(t, file)
	one, other := entries[0].Version, pack(t, "2.0.3", "other content")
	with := func(change func(map[string][]byte)) []byte {
		files := maps.Clone(good)
		change(files)
		return retar(t, files)
	}
	blob := func(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }
	reindex := func(change func(*ocispec.Index)) []byte {
		return with(func(files map[string][]byte) {
			var index ocispec.Index
			if err := json.Unmarshal(files["index.json"], &index); err != nil {
				t.Fatal(err)
			}
			for _, b := range append(slices.Clone(other.Blobs), versions.Blob{Digest: other.Digest, Data: other.ManifestBytes}) {
				files[blob(b.Digest)] = b.Data
			}
			change(&index)
			files["index.json"] = mustJSON(t, index)
		})
	}
	entry := func(p versions.Packed, tag string) ocispec.Descriptor {
		d := content.NewDescriptorFromBytes(versions.MediaTypeImage, p.ManifestBytes)
		d.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
		return d
	}
	special := func(h tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var compressed bytes.Buffer
	gz := gzip.NewWriter(&compressed)
	_, _ = gz.Write(file)
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		file []byte
		says string
	}{
		"nothing":               {nil, "there is no oci-layout"},
		"no tarball":            {bytes.Repeat([]byte("x"), 2000), "no tarball"},
		"compressed":            {compressed.Bytes(), "gunzip"},
		"no index":              {with(func(f map[string][]byte) { delete(f, "index.json") }), "there is no index.json"},
		"an empty index":        {with(func(f map[string][]byte) { f["index.json"] = []byte(`{"manifests":[]}`) }), "holds no version"},
		"another layout":        {with(func(f map[string][]byte) { f["oci-layout"] = []byte(`{"imageLayoutVersion":"9"}`) }), "layout version"},
		"a missing manifest":    {with(func(f map[string][]byte) { delete(f, blob(one.Digest)) }), "named in the index and not in the file"},
		"a missing document":    {with(func(f map[string][]byte) { delete(f, blob(one.Blobs[1].Digest)) }), "is missing"},
		"a damaged document":    {with(func(f map[string][]byte) { f[blob(one.Blobs[1].Digest)] = []byte("rot") }), "is damaged"},
		"a damaged manifest":    {with(func(f map[string][]byte) { f[blob(one.Digest)] = []byte("{}") }), "is damaged"},
		"a missing report":      {with(func(f map[string][]byte) { delete(f, blob(entries[0].Attachments[0].Blob().Digest)) }), "is missing"},
		"one tag twice":         {reindex(func(i *ocispec.Index) { i.Manifests = append(i.Manifests, entry(other, one.Ref().Tag())) }), "is given to two versions"},
		"one name twice":        {reindex(func(i *ocispec.Index) { i.Manifests = append(i.Manifests, entry(other, "x")) }), "with two contents: " + one.Digest + " and " + other.Digest},
		"another version's tag": {reindex(func(i *ocispec.Index) { i.Manifests = append(i.Manifests, entry(other, "customer-service-9.9.9")) }), "which calls itself customer-service:2.0.3"},
		"a link":                {special(tar.Header{Typeflag: tar.TypeSymlink, Name: "blobs/sha256/x", Linkname: "/etc/passwd"}), "neither links nor devices"},
		"a hard link":           {special(tar.Header{Typeflag: tar.TypeLink, Name: "index.json", Linkname: "oci-layout"}), "neither links nor devices"},
		"a device":              {special(tar.Header{Typeflag: tar.TypeChar, Name: "index.json"}), "neither links nor devices"},
		"a way up":              {special(tar.Header{Typeflag: tar.TypeReg, Name: "blobs/../../x"}), "leads out of it"},
		"an absolute name":      {special(tar.Header{Typeflag: tar.TypeReg, Name: "/index.json"}), "leads out of it"},
		"backslashes":           {special(tar.Header{Typeflag: tar.TypeReg, Name: `..\index.json`}), "leads out of it"},
		"a name not in UTF-8":   {special(tar.Header{Typeflag: tar.TypeReg, Name: "a\xff", Format: tar.FormatGNU}), "is not UTF-8"},
		"the same file twice":   {append(bytes.TrimRight(special(tar.Header{Typeflag: tar.TypeReg, Name: "index.json"})[:512], ""), special(tar.Header{Typeflag: tar.TypeReg, Name: "index.json"})...), "is in the file twice"},
		"a huge blob":           {hugeHeader(t), "at most 64 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := bundle.Read(bytes.NewReader(x.file), bundle.DefaultLimits)
			if err == nil || !strings.Contains(err.Error(), x.says) {
				t.Errorf("%d versions, error %v; want one that says %q", len(got.Entries), err, x.says)
			}
			if len(got.Entries) > 0 {
				t.Error("versions came with the error")
			}
		})
	}
}

// hugeHeader announces a blob of 100 MB and holds none of it.
func hugeHeader(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/" + strings.Repeat("a", 64), Size: 100 << 20}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tiny is a tarball of many empty files, made while it is read.
type tiny struct {
	left int
	buf  bytes.Buffer
	w    *tar.Writer
}

func (s *tiny) Read(p []byte) (int, error) {
	for s.buf.Len() == 0 {
		if s.left == 0 {
			return 0, io.EOF
		}
		s.left--
		if err := s.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("f%d", s.left)}); err != nil {
			return 0, err
		}
	}
	return s.buf.Read(p)
}

func TestBounds(t *testing.T) {
	many := &tiny{left: 1_000_000}
	many.w = tar.NewWriter(&many.buf)
	if _, err := bundle.Read(many, bundle.DefaultLimits); err == nil || !strings.Contains(err.Error(), "more than 100000 files") {
		t.Errorf("a million files: %v", err)
	}
	if many.left < 800_000 {
		t.Errorf("%d of a million files were read before it was refused", 1_000_000-many.left)
	}
	_, file := two(t)
	if _, err := bundle.Read(bytes.NewReader(file), bundle.Limits{Files: 100, Size: 500}); err == nil || !strings.Contains(err.Error(), "more than 0 MiB") {
		t.Errorf("more bytes than allowed: %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	a, b := pack(t, "2.0.3", "one"), pack(t, "2.1.0", "two")
	forged := a
	forged.Digest = b.Digest
	for name, entries := range map[string][]bundle.Entry{
		"twice":                 {{Version: a}, {Version: a}},
		"forged":                {{Version: forged}},
		"another's attachment":  {{Version: a, Attachments: []versions.Attachment{report(t, b)}}},
		"an attachment of lies": {{Version: a, Attachments: []versions.Attachment{{Digest: a.Digest, Subject: a.Digest}}}},
	} {
		if err := bundle.Write(io.Discard, entries); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

// Arbitrary bytes. The seeds are small: what is behind digests is reached by FuzzIndex.
func FuzzRead(f *testing.F) {
	empty := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": []byte(`{"manifests":[]}`)}
	whole := retar(f, empty)
	f.Add(whole)
	f.Add(whole[:700])
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := bundle.Read(bytes.NewReader(data), bundle.Limits{Files: 1000, Size: 1 << 20})
		check(t, got, err)
	})
}

// A file whose blobs are what their names say, with any index and any manifest in it.
func FuzzIndex(f *testing.F) {
	p := pack(f, "2.0.3", "one")
	at := report(f, p)
	index := untar(f, write(f, bundle.Entry{Version: p, Attachments: []versions.Attachment{at}}))["index.json"]
	f.Add(index, p.ManifestBytes, p.Blobs[0].Data, at.Image)
	f.Add([]byte(`{"manifests":[{"digest":"sha256:x"}]}`), []byte("{}"), []byte("name: s"), []byte("null"))
	f.Fuzz(func(t *testing.T, index, image, manifest, attached []byte) {
		files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": index}
		for _, data := range [][]byte{image, manifest, attached, []byte("one"), at.Data, []byte("{}")} {
			files["blobs/sha256/"+strings.TrimPrefix(versions.DigestOf(data), "sha256:")] = data
		}
		got, err := bundle.Read(bytes.NewReader(retar(t, files)), bundle.Limits{Files: 1000, Size: 1 << 20})
		check(t, got, err)
	})
}

// check wants nothing with an error, and otherwise what can be written and read again.
func check(t *testing.T, got bundle.Bundle, err error) {
	t.Helper()
	if err != nil {
		if len(got.Entries) > 0 {
			t.Fatal("versions came with an error")
		}
		return
	}
	again, err := bundle.Read(bytes.NewReader(write(t, got.Entries...)), bundle.DefaultLimits)
	if err != nil || len(again.Entries) != len(got.Entries) {
		t.Fatalf("what was read cannot be written and read again: %v", err)
	}
}

func untar(t testing.TB, file []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(file))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func retar(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Size: int64(len(files[name])), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
