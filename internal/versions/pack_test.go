package versions_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/versions"
)

const examples = "../../examples/refunds/specs/"

// The digest is the identity of a version. If this test fails without a change of the example files, every digest ever published has changed.
func TestDigestsOfTheExamples(t *testing.T) {
	for version, want := range map[string]string{
		"2.0.3": "sha256:4e84734af7e189b95c8e4255b14d34a5f77f6079e15477c8389c37d4bff2f1fd",
		"2.1.0": "sha256:9cc3cd6ea92cf8bfcc51670726837dd87aae41c5f79e2cfe9f088932a091f728",
		"2.2.0": "sha256:c9953a3e998e21852062fb6625feb016d45893790874daa7a84187ed1b76351f",
	} {
		files, err := versions.LoadFolder(os.DirFS(examples + version))
		if err != nil {
			t.Fatal(err)
		}
		p, err := versions.Pack(files)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Ref().String(); got != "customer-service:"+version {
			t.Errorf("folder %s holds %s", version, got)
		}
		if p.Digest != want {
			t.Errorf("%s: digest %s, want %s\n%s", version, p.Digest, want, p.ManifestBytes)
		}
	}
}

// folder is a version with documents of several kinds, one of them empty and two of them equal.
func folder() map[string][]byte {
	return map[string][]byte{
		"spec.yaml":     []byte(smallest + "documents: [prompt.md, a/limits.yaml, a/b.bin, empty, copy.md]\n"),
		"prompt.md":     []byte("# Be kind\n"),
		"a/limits.yaml": []byte("refund: {limit: 500}\n"),
		"a/b.bin":       {0, 1, 2},
		"empty":         {},
		"copy.md":       []byte("# Be kind\n"),
	}
}

func pack(t testing.TB, files map[string][]byte) versions.Packed {
	t.Helper()
	p, err := versions.Pack(files)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPackedFormIsAnOCIImageManifest(t *testing.T) {
	files := folder()
	files["notes.txt"], files[".git/config"] = []byte("mine"), []byte("mine")
	p := pack(t, files)

	type layer struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int               `json:"size"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	type image struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		ArtifactType  string            `json:"artifactType"`
		Config        layer             `json:"config"`
		Layers        []layer           `json:"layers"`
		Annotations   map[string]string `json:"annotations"`
	}
	title := func(path, mediaType string) layer {
		return layer{
			MediaType: mediaType, Digest: versions.DigestOf(files[path]), Size: len(files[path]),
			Annotations: map[string]string{"org.opencontainers.image.title": path},
		}
	}
	want := image{
		SchemaVersion: 2,
		MediaType:     "application/vnd.oci.image.manifest.v1+json",
		ArtifactType:  "application/vnd.specproxy.spec.v1",
		Config:        layer{MediaType: "application/vnd.oci.empty.v1+json", Digest: versions.DigestOf([]byte("{}")), Size: 2},
		Layers: []layer{
			title("spec.yaml", "application/vnd.specproxy.manifest.v1+yaml"),
			title("a/b.bin", "application/octet-stream"),
			title("a/limits.yaml", "application/yaml"),
			title("copy.md", "text/markdown"),
			title("empty", "application/octet-stream"),
			title("prompt.md", "text/markdown"),
		},
		Annotations: map[string]string{"org.specproxy.spec.name": "billing", "org.specproxy.spec.version": "1.0.0"},
	}
	var got image
	d := json.NewDecoder(bytes.NewReader(p.ManifestBytes))
	d.DisallowUnknownFields()
	if err := d.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{".git/config", "notes.txt"}, p.Ignored); diff != "" {
		t.Errorf("ignored: -want +got:\n%s", diff)
	}
	if p.Digest != versions.DigestOf(p.ManifestBytes) {
		t.Error("the digest is not that of the image manifest")
	}
	if data, ok := p.File("a/limits.yaml"); !ok || !bytes.Equal(data, files["a/limits.yaml"]) {
		t.Errorf("File returned %q, %v", data, ok)
	}
	if _, ok := p.File("notes.txt"); ok {
		t.Error("File returned a file that is not part of the version")
	}
}

// The order in which documents are listed is part of spec.yaml's bytes and so of the identity; the order in which files are given is not,
// and neither is anything that lies beside them.
func TestDigestIsAFunctionOfTheNamedBytes(t *testing.T) {
	base := pack(t, folder())
	rapid.Check(t, func(t *rapid.T) {
		files := make(map[string][]byte)
		for _, path := range rapid.Permutation(slices.Sorted(maps.Keys(folder()))).Draw(t, "order") {
			files[path] = bytes.Clone(folder()[path])
		}
		files["beside-"+rapid.StringMatching(`[a-z]{0,8}`).Draw(t, "beside")] = []byte("x")
		if p, err := versions.Pack(files); err != nil || p.Digest != base.Digest || !bytes.Equal(p.ManifestBytes, base.ManifestBytes) {
			t.Fatalf("the same files gave %s, %v, then %s", base.Digest, err, p.Digest)
		}
		changed := rapid.SampledFrom([]string{"prompt.md", "a/limits.yaml", "a/b.bin", "empty", "copy.md", "spec.yaml"}).Draw(t, "changed")
		files[changed] = append(files[changed], '\n')
		if p, err := versions.Pack(files); err != nil || p.Digest == base.Digest {
			t.Fatalf("%s changed and the digest did not (%v)", changed, err)
		}
	})
}

func TestPackRefuses(t *testing.T) {
	without := func(path string) map[string][]byte {
		files := folder()
		delete(files, path)
		return files
	}
	large := folder()
	large["a/b.bin"] = make([]byte, versions.MaxVersionSize)
	broken := folder()
	broken["spec.yaml"] = []byte("name: billing\n")
	for name, c := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"no manifest":      {without("spec.yaml"), "there is no spec.yaml"},
		"missing document": {without("a/limits.yaml"), `billing:1.0.0: document "a/limits.yaml" is named in spec.yaml but is not in the folder`},
		"too large":        {large, `larger than 64 MiB`},
		"bad manifest":     {broken, "spec.yaml has 2 problems"},
	} {
		_, err := versions.Pack(c.files)
		checkError(t, name, err, c.want)
	}
}

// store is where a test's Unpack fetches from.
func store(p versions.Packed) map[string][]byte {
	blobs := make(map[string][]byte)
	for _, b := range p.Blobs {
		blobs[b.Digest] = bytes.Clone(b.Data)
	}
	return blobs
}

func fetch(blobs map[string][]byte) func(string) ([]byte, error) {
	return func(digest string) ([]byte, error) {
		if data, ok := blobs[digest]; ok {
			return data, nil
		}
		return nil, fs.ErrNotExist
	}
}

func TestUnpackIsTheInverseOfPack(t *testing.T) {
	p := pack(t, folder())
	got, err := versions.Unpack(p.ManifestBytes, fetch(store(p)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, got); diff != "" {
		t.Errorf("-packed +unpacked:\n%s", diff)
	}
	if err := p.Verify(); err != nil {
		t.Error(err)
	}
}

// One bit that differs anywhere is noticed: in a blob by Unpack, in the image manifest by the digest or by Unpack.
func TestUnpackNoticesEveryBit(t *testing.T) {
	p := pack(t, folder())
	places := []int{-1} // the image manifest, and the blobs that have a bit
	for i, content := range p.Blobs {
		if len(store(p)[content.Digest]) > 0 {
			places = append(places, i)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		image, blobs := bytes.Clone(p.ManifestBytes), store(p)
		target := image
		which := rapid.SampledFrom(places).Draw(t, "blob")
		if which >= 0 {
			target = blobs[p.Blobs[which].Digest]
		}
		target[rapid.IntRange(0, len(target)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		got, err := versions.Unpack(image, fetch(blobs))
		if which < 0 {
			if err == nil && got.Digest == p.Digest {
				t.Fatal("a changed image manifest has the digest of the true one")
			}
			return
		}
		var damaged *versions.Damaged
		if !errors.As(err, &damaged) || damaged.Digest != p.Blobs[which].Digest || damaged.Got == damaged.Digest {
			t.Fatalf("a bit of %s differs: %v", p.Blobs[which].Path, err)
		}
	})
}

func TestUnpackRefuses(t *testing.T) {
	p := pack(t, folder())
	edit := func(old, replacement string) []byte {
		if !bytes.Contains(p.ManifestBytes, []byte(old)) {
			t.Fatalf("the image manifest has no %s", old)
		}
		return bytes.Replace(p.ManifestBytes, []byte(old), []byte(replacement), 1)
	}
	prompt := p.Blobs[len(p.Blobs)-1]
	missing, short := store(p), store(p)
	delete(missing, prompt.Digest)
	short[prompt.Digest] = prompt.Data[:3]
	for name, c := range map[string]struct {
		image []byte
		blobs map[string][]byte
		want  string
	}{
		"no JSON":             {[]byte("{"), store(p), "not a packed spec version"},
		"another image":       {[]byte(`{"mediaType":"application/vnd.oci.image.index.v1+json"}`), store(p), "its media type is"},
		"another artifact":    {edit("vnd.specproxy.spec.v1", "vnd.specproxy.spec.v9"), store(p), "its artifact type is"},
		"no spec.yaml":        {edit(`title":"spec.yaml"`, `title":"spec.yml"`), store(p), "first layer is not spec.yaml"},
		"another digest kind": {edit(prompt.Digest, "md5:00"), store(p), "is not sha256"},
		"another size":        {edit(`"size":10,`, `"size":11,`), store(p), `document "copy.md" is damaged`},
		"negative size":       {edit(`"size":10,`, `"size":-1,`), store(p), "larger than"},
		"another name":        {edit(`spec.name":"billing"`, `spec.name":"payroll"`), store(p), "calls itself payroll:1.0.0, its spec.yaml billing:1.0.0"},
		"another path":        {edit(`title":"prompt.md"`, `title":"../prompt.md"`), store(p), `carries`},
		"missing blob":        {p.ManifestBytes, missing, `document "copy.md" (` + prompt.Digest + `) is missing`},
		"half a blob":         {p.ManifestBytes, short, `document "copy.md" is damaged: the version names ` + prompt.Digest},
	} {
		_, err := versions.Unpack(c.image, fetch(c.blobs))
		checkError(t, name, err, c.want)
	}
	broken := errors.New("connection lost")
	if _, err := versions.Unpack(p.ManifestBytes, func(string) ([]byte, error) { return nil, broken }); !errors.Is(err, broken) || !strings.Contains(err.Error(), "spec.yaml") {
		t.Errorf("an error of the source became %v", err)
	}
}

func TestVerifyNoticesForeignParts(t *testing.T) {
	other := folder()
	other["prompt.md"] = []byte("# Be brief\n")
	p, q := pack(t, folder()), pack(t, other)
	mixed := p
	mixed.Blobs = q.Blobs
	checkError(t, "other blobs", mixed.Verify(), "not those that its image manifest names")
	mixed = p
	mixed.Blobs = p.Blobs[:len(p.Blobs)-1]
	checkError(t, "one blob less", mixed.Verify(), "not those that its image manifest names")
	mixed.Blobs = p.Blobs[:1]
	checkError(t, "one blob", mixed.Verify(), "is missing")
	mixed = p
	mixed.Manifest.Name = "payroll"
	checkError(t, "other manifest", mixed.Verify(), "not those that its image manifest names")
	mixed = p
	mixed.Digest = q.Digest
	checkError(t, "other digest", mixed.Verify(), "the image manifest is damaged")
}
