package versions_test

import (
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/specproxy/specproxy/internal/versions"
)

// Small files that mean to be large: they are refused without being written out.
func TestYAMLBombsAreRefusedCheaply(t *testing.T) {
	laughs := "a0: &a0 [ha,ha,ha,ha,ha,ha,ha,ha,ha]\n"
	for n := 1; n < 30; n++ {
		laughs += fmt.Sprintf("a%d: &a%d [%s]\n", n, n, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", n-1), 9), ","))
	}
	merges := "b0: &b0 {x: 1}\n"
	for n := 1; n < 200; n++ {
		merges += fmt.Sprintf("b%d: &b%d {<<: [*b%d, *b%d]}\n", n, n, n-1, n-1)
	}
	deep := versions.MaxManifestSize - 100
	for name, source := range map[string]string{
		"billion laughs":        laughs,
		"merge keys":            merges,
		"lists within lists":    "name: " + strings.Repeat("[", deep),
		"mappings in mappings":  strings.Repeat("{a: ", deep/4),
		"deep but well-formed":  "name: " + strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000) + "\n",
		"one anchor, many uses": "a: &a " + strings.Repeat("x", 1000) + "\nb: [" + strings.Repeat("*a,", 100_000) + "*a]\n",
		"many documents":        strings.Repeat("---\na: b\n", 50_000),
		"one long key":          "? " + strings.Repeat("k", deep) + "\n: v\n",
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := versions.ParseManifest([]byte(source))
		runtime.ReadMemStats(&after)
		if err == nil || len(err.Error()) > 10_000 {
			t.Errorf("%s: %.200v", name, err)
		}
		if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > 512 {
			t.Errorf("%s: a manifest of %d KiB made the parser allocate %d MiB", name, len(source)>>10, used)
		}
	}
}

// A folder of a million files costs what its manifest names.
func TestLoadFolderReadsNoFileThatIsNotNamed(t *testing.T) {
	disk := countingFS{MapFS: fstest.MapFS{
		"spec.yaml": {Data: []byte(smallest + "documents: [a]\n")}, "a": {Data: []byte("x")},
	}, opened: map[string]int{}}
	for n := range 10_000 {
		disk.MapFS[fmt.Sprintf("junk/%d", n)] = &fstest.MapFile{Data: []byte("y")}
	}
	files, err := versions.LoadFolder(disk)
	if err != nil || len(files) != 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	if len(disk.opened) != 2 {
		t.Errorf("opened %v", disk.opened)
	}
}

// Names that are bytes and no text: Linux has such files, YAML cannot write them, and the API's clients could send them.
func TestDocumentNamesThatAreNoText(t *testing.T) {
	for _, name := range []string{"a\xff", "\xc3\x28", "dir\xfe/x"} {
		_, err := versions.ParseManifest([]byte(smallest + "documents: ['" + name + "']\n"))
		checkError(t, name, err, "line 5: the manifest is not UTF-8")
		_, err = versions.ParseManifest([]byte(smallest + fmt.Sprintf("documents: [%q]\n", name)))
		if err == nil {
			continue // Go's escape of a byte is a character of its own to YAML: another name, which is text
		}
		checkError(t, name, err, "documents[0]")
	}
	p, err := versions.Pack(map[string][]byte{"spec.yaml": []byte(smallest), "a\xff": []byte("x")})
	if err != nil || len(p.Blobs) != 1 {
		t.Errorf("a file that nobody names: %v, %v", p.Blobs, err)
	}
}

type countingFS struct {
	fstest.MapFS
	opened map[string]int
}

func (c countingFS) Open(name string) (fs.File, error) {
	c.opened[name]++
	return c.MapFS.Open(name)
}
