package versions_test

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/specproxy/specproxy/internal/versions"
)

// What ParseManifest takes, the YAML library must read in the same way, the schema must take, and Pack and Unpack must carry.
func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(complete))
	f.Add([]byte(smallest))
	for _, c := range bad {
		if len(c.source) < 4096 {
			f.Add([]byte(c.source))
		}
	}
	for _, version := range []string{"2.0.3", "2.1.0", "2.2.0"} {
		source, err := os.ReadFile(examples + version + "/spec.yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(source)
	}
	s := compileSchema(f)
	f.Fuzz(func(t *testing.T, source []byte) {
		m, err := versions.ParseManifest(source)
		if err != nil {
			var refused *versions.ManifestError
			if !errors.As(err, &refused) || err.Error() == "" {
				t.Fatalf("not a *ManifestError: %v", err)
			}
			lines := 1 + bytes.Count(source, []byte("\n")) + bytes.Count(source, []byte("\r"))
			for _, p := range refused.Problems {
				if p.Line < 0 || p.Line > lines+1 {
					t.Fatalf("a file of %d lines has a problem in line %d: %v", lines, p.Line, p)
				}
			}
			return
		}
		if err := bySchema(t, s, string(source)); err != nil {
			t.Fatalf("the schema refuses what the parser takes: %v", err)
		}
		agreeWithLibrary(t, source, m)

		files := map[string][]byte{versions.ManifestPath: source}
		for _, path := range m.Documents {
			files[path] = []byte(path)
		}
		p, err := versions.Pack(files)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Verify(); err != nil {
			t.Fatal(err)
		}
	})
}

func agreeWithLibrary(t *testing.T, source []byte, m versions.Manifest) {
	t.Helper()
	want := versions.Manifest{Request: versions.Request{BodyBuffer: versions.DefaultBodyBuffer}, Bake: versions.Duration(versions.DefaultBake)}
	d := yaml.NewDecoder(bytes.NewReader(source))
	d.KnownFields(true)
	if err := d.Decode(&want); err != nil {
		t.Fatalf("the YAML library refuses it: %v", err)
	}
	if len(want.Hosts) == 0 {
		want.Hosts = []string{versions.DefaultHost(want.Name)}
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Fatalf("-library +parser:\n%s", diff)
	}
}
