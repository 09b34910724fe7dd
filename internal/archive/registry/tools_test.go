package registry_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/specproxy/specproxy/internal/registrytest"
	"github.com/specproxy/specproxy/internal/versions"
)

func overwrite(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOrasPullsWhatWeWrote(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	p := pack(t, "1.0.0", "be kind")
	put(t, open(t, r.Host, 0), p)
	for _, reference := range []string{":billing-1.0.0", "@" + p.Digest} {
		dir := t.TempDir()
		oras(t, "pull", "--plain-http", "--output", dir, r.Host+"/"+repository+reference)
		got, want := map[string]string{}, map[string]string{}
		for _, b := range p.Blobs {
			want[b.Path] = string(b.Data)
			data, err := os.ReadFile(filepath.Join(dir, b.Path))
			if err != nil {
				t.Error(err)
			}
			got[b.Path] = string(data)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("oras pull %s: -want +got:\n%s", reference, diff)
		}
	}
	var image ocispec.Manifest
	if err := json.Unmarshal([]byte(oras(t, "manifest", "fetch", "--plain-http", r.Host+"/"+repository+":billing-1.0.0")), &image); err != nil {
		t.Fatal(err)
	}
	if image.ArtifactType != versions.ArtifactType || len(image.Layers) != 3 {
		t.Errorf("oras sees an artifact of type %q with %d layers", image.ArtifactType, len(image.Layers))
	}
}
