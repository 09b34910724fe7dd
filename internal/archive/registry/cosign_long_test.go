//go:build long

package registry_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/registrytest"
)

// cosign signs and verifies by digest what we wrote, offline, with a key of its own; our archive goes on undisturbed beside what it adds.
func TestLongCosignSignsWhatWeWrote(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	a, p := open(t, r.Host, 0), pack(t, "1.0.0", "be kind")
	put(t, a, p)
	dir := t.TempDir()
	env := []string{"COSIGN_PASSWORD=", "HOME=" + dir, "COSIGN_EXPERIMENTAL=0"}
	key := filepath.Join(dir, "cosign")
	tool(t, "cosign", env, "generate-key-pair", "--output-key-prefix", key)
	overwrite(t, filepath.Join(dir, "signing.json"), []byte(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json"}`))
	image := r.Host + "/" + repository + "@" + p.Digest
	tool(t, "cosign", env, "sign", "--key", key+".key", "--signing-config", filepath.Join(dir, "signing.json"), "--yes", "--allow-insecure-registry", image)
	out := tool(t, "cosign", env, "verify", "--key", key+".pub", "--insecure-ignore-tlog", "--private-infrastructure", "--allow-insecure-registry", image)
	if !strings.Contains(out, p.Digest) {
		t.Errorf("cosign verified something else:\n%s", out)
	}
	checkHolds(t, open(t, r.Host, 0), p)
	if _, err := a.Check(t.Context(), p.Ref(), p.Digest); err != nil {
		t.Error(err)
	}
	held, err := a.Held(t.Context())
	if err != nil || len(held) != 1 || held[0].Digest != p.Digest {
		t.Errorf("the archive holds %v, %v", held, err)
	}
	if all, err := a.Attachments(t.Context(), p.Digest, ""); err != nil || len(all) != 0 {
		t.Errorf("cosign's signature is taken for an attachment of ours: %v, %v", all, err)
	}
}
