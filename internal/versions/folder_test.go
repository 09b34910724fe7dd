package versions_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/specproxy/specproxy/internal/versions"
)

func TestLoadFolderReadsWhatTheManifestNames(t *testing.T) {
	disk := fstest.MapFS{}
	for path, data := range folder() {
		disk[path] = &fstest.MapFile{Data: data}
	}
	disk["notes.txt"] = &fstest.MapFile{Data: []byte("mine")}
	got, err := versions.LoadFolder(disk)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(folder(), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestLoadFolderRefuses(t *testing.T) {
	manifest := smallest + "documents: [prompt.md, a/limits.yaml]\n"
	write := func(t *testing.T, dir, path, data string) {
		t.Helper()
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(t *testing.T, to, from string) {
		t.Helper()
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		build func(t *testing.T, dir string)
		want  string
	}{
		{"nothing there", func(*testing.T, string) {}, "there is no spec.yaml"},
		{"missing document", func(t *testing.T, dir string) {
			write(t, dir, "spec.yaml", manifest)
			write(t, dir, "prompt.md", "x")
		}, `billing:1.0.0: document "a/limits.yaml" is named in spec.yaml but is not in the folder`},
		{"linked document", func(t *testing.T, dir string) {
			write(t, dir, "spec.yaml", manifest)
			write(t, dir, "a/limits.yaml", "x")
			link(t, "a/limits.yaml", filepath.Join(dir, "prompt.md"))
		}, `"prompt.md" is a link: a version is made of plain files`},
		{"linked folder", func(t *testing.T, dir string) {
			write(t, dir, "spec.yaml", manifest)
			write(t, dir, "prompt.md", "x")
			write(t, dir, "b/limits.yaml", "x")
			link(t, "b", filepath.Join(dir, "a"))
		}, `document "a/limits.yaml": "a" is a link, not a folder`},
		{"linked manifest", func(t *testing.T, dir string) {
			write(t, dir, "real.yaml", manifest)
			link(t, "real.yaml", filepath.Join(dir, "spec.yaml"))
		}, `"spec.yaml" is a link`},
		{"folder as a document", func(t *testing.T, dir string) {
			write(t, dir, "spec.yaml", manifest)
			write(t, dir, "prompt.md/x", "x")
		}, `"prompt.md" is a folder`},
		{"file as a folder", func(t *testing.T, dir string) {
			write(t, dir, "spec.yaml", manifest)
			write(t, dir, "prompt.md", "x")
			write(t, dir, "a", "x")
		}, `"a" is a file, not a folder`},
		{"bad manifest", func(t *testing.T, dir string) { write(t, dir, "spec.yaml", "name: x\n") }, "version is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.build(t, dir)
			_, err := versions.LoadFolder(os.DirFS(dir))
			checkError(t, c.name, err, c.want)
		})
	}
}

func TestLoadFolderIsBounded(t *testing.T) {
	disk := fstest.MapFS{
		"spec.yaml": {Data: []byte(smallest + "documents: [a, b]\n")},
		"a":         {Data: make([]byte, versions.MaxVersionSize/2)},
		"b":         {Data: make([]byte, versions.MaxVersionSize/2)},
	}
	_, err := versions.LoadFolder(disk)
	checkError(t, "too large", err, `with document "b" the version is larger than 64 MiB`)
	disk["spec.yaml"].Data = make([]byte, versions.MaxManifestSize+1)
	_, err = versions.LoadFolder(disk)
	checkError(t, "large manifest", err, `"spec.yaml" has more than 1048576 bytes`)
	disk["b"] = &fstest.MapFile{Mode: fs.ModeNamedPipe}
	disk["a"] = &fstest.MapFile{Data: []byte("x")}
	disk["spec.yaml"] = &fstest.MapFile{Data: []byte(smallest + "documents: [a, b]\n")}
	_, err = versions.LoadFolder(disk)
	checkError(t, "pipe", err, `"b" is a pipe`)
}
