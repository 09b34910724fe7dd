package e2e

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/registrytest"
)

// Only signed versions get traffic: the deploy checks it, and again the sidecar, with the keys that the control plane gives it or with its own. The
// way back to what ran before stays open and warm. All of it in a directory, and in a registry.
func TestOnlySignedVersionsRun(t *testing.T) {
	t.Run("directory", func(t *testing.T) { onlySignedVersionsRun(t, startPlane(t, nil), func() {}) })
	t.Run("registry", func(t *testing.T) {
		r := registrytest.Start(t, registrytest.Options{})
		onlySignedVersionsRun(t, startPlane(t, in(r)), r.Stop)
	})
}

// away takes the archive away from the control plane.
func onlySignedVersionsRun(t *testing.T, w *world, away func()) {
	keys := t.TempDir()
	key := func(name string) string { return filepath.Join(keys, name) }
	agent := startAgent(t, "any", newFlips())
	old, _ := specFolder(t, "shop", "1.0.0", "be kind")
	next, _ := specFolder(t, "shop", "1.1.0", "be firm")
	w.run(0, nil, "publish", old)
	w.run(0, nil, "publish", next)
	w.sidecar("shop:1.0.0", agent.url)
	w.ready("shop", "1.0.0", 1)
	w.deploy("shop", "1.0.0")
	w.run(0, nil, "key", "generate", key("release"))
	w.run(0, nil, "key", "generate", key("stranger"))
	w.run(0, []string{"has traffic and keeps it"}, "policy", "set", "shop", "--require-signature", key("release.pub"))

	// The sidecar of an unsigned version registers, and is not ready.
	w.sidecar("shop:1.1.0", agent.url)
	eventually(t, "reason why the instance is not ready", func() error {
		out, _ := w.specctl("get", "shop", "-o", "json")
		if !strings.Contains(out, "the policy of shop demands a signature") {
			return errors.New(out)
		}
		return nil
	})
	w.ready("shop", "1.1.0", 0)
	w.run(1, []string{"shop:1.1.0 must be signed by key"}, "deploy", "shop:1.1.0", "--now")
	w.run(1, []string{"shop:1.1.0 must be signed by key"}, "target", "shop:1.1.0", "--header", "x-tester=true", "--now")
	w.run(0, nil, "sign", "shop:1.1.0", "--key", key("stranger.key"))
	w.run(1, []string{"its signatures do not count"}, "deploy", "shop:1.1.0", "--now")
	stubborn := w.sidecar("shop:1.1.0", agent.url, "--require-key", key("release.pub"))
	<-stubborn.done
	if log := stubborn.log.String(); stubborn.err == nil || !strings.Contains(log, "--require-key") || !strings.Contains(log, "no signature of shop:1.1.0 counts here") {
		t.Errorf("a sidecar that wants the release key ended with %v:\n%s", stubborn.err, log)
	}

	// One signature opens all three gates.
	w.run(0, []string{"signed: by key"}, "sign", "shop:1.1.0", "--key", key("release.key"))
	w.ready("shop", "1.1.0", 1)
	w.sidecar("shop:1.1.0", agent.url, "--require-key", key("release.pub"))
	w.ready("shop", "1.1.0", 2)
	w.deploy("shop", "1.1.0")

	// 1.0.0 was never signed. A new instance of it is ready all the same, and a rollback goes there, whatever the archive says.
	w.sidecar("shop:1.0.0", agent.url)
	w.ready("shop", "1.0.0", 2)
	away()
	if change := w.rollback("shop"); change.GetTarget() != "1.0.0" {
		t.Errorf("rolled back to %s", change.GetTarget())
	}
}

// A signature whose bytes were changed in the archive is no signature, and not mistaken for none either.
func TestTamperedSignatureIsReported(t *testing.T) {
	w := startPlane(t, nil)
	dir, _ := specFolder(t, "shop", "1.0.0", "be kind")
	key := filepath.Join(t.TempDir(), "release")
	w.run(0, nil, "publish", dir)
	w.run(0, nil, "key", "generate", key)
	w.run(0, nil, "sign", "shop:1.0.0", "--key", key+".key")
	w.run(0, nil, "policy", "set", "shop", "--require-signature", key+".pub")
	w.run(0, nil, "deploy", "shop:1.0.0", "--now", "--dry-run")

	blobs, err := filepath.Glob(filepath.Join(w.dataDir, "archive", "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	tampered := 0
	for _, blob := range blobs {
		data, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		if changed := bytes.Replace(data, []byte(`"sig":"`), []byte(`"sig":"A`), 1); !bytes.Equal(changed, data) {
			tampered++
			if err := os.Chmod(blob, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(blob, changed, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if tampered != 1 {
		t.Fatalf("%d envelopes in the archive, want 1", tampered)
	}
	w.run(1, []string{"what is attached to shop:1.0.0 cannot be read", "is damaged"}, "deploy", "shop:1.0.0", "--now")
	w.run(1, []string{"is damaged", "repairs it"}, "verify", "shop:1.0.0", "--key", key+".pub")
	w.run(1, []string{"is damaged", "repairs it"}, "export", "shop:1.0.0", "-f", key+".tar")
	w.run(0, []string{"unread: ", "is damaged"}, "show", "shop:1.0.0")
	w.run(0, []string{"be kind"}, "cat", "shop:1.0.0", "prompt.md")
	// Signing again repairs it.
	w.run(0, nil, "sign", "shop:1.0.0", "--key", key+".key")
	w.run(0, nil, "verify", "shop:1.0.0", "--key", key+".pub")
	w.run(0, nil, "deploy", "shop:1.0.0", "--now", "--dry-run")
}
