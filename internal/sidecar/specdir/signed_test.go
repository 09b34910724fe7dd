package specdir_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/sidecar/fakecontrol"
	"github.com/specproxy/specproxy/internal/signing"
	"github.com/specproxy/specproxy/internal/versions"
)

func generate(t *testing.T) (signing.PrivateKey, signing.PublicKey) {
	t.Helper()
	private, _, err := signing.GenerateKey(signing.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	key, err := signing.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return key, key.Public
}

func sign(t *testing.T, key signing.PrivateKey, p versions.Packed) []byte {
	t.Helper()
	envelope, err := signing.Sign(t.Context(), key, signing.Of(p))
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

// What the key did not sign is not obtained, though the control plane vouches for it.
func TestRequiredKey(t *testing.T) {
	key, public := generate(t)
	stranger, _ := generate(t)
	other := pack(t, "other")
	for name, x := range map[string]struct {
		envelopes func(versions.Packed) [][]byte
		says      string
	}{
		"unsigned":          {func(versions.Packed) [][]byte { return nil }, "has no signature"},
		"by a stranger":     {func(p versions.Packed) [][]byte { return [][]byte{sign(t, stranger, p)} }, "none of the keys that count"},
		"of another":        {func(versions.Packed) [][]byte { return [][]byte{sign(t, key, other)} }, "has no signature"},
		"nonsense":          {func(versions.Packed) [][]byte { return [][]byte{[]byte("{}")} }, "has no signature"},
		"by the key":        {func(p versions.Packed) [][]byte { return [][]byte{sign(t, key, p)} }, ""},
		"also by strangers": {func(p versions.Packed) [][]byte { return [][]byte{[]byte("x"), sign(t, stranger, p), sign(t, key, p)} }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			control := fakecontrol.Start(t)
			p := control.Publish(map[string]string{"spec.yaml": manifest, "a/b.md": "text"})
			for _, e := range x.envelopes(p) {
				control.Sign(p.Digest, e)
			}
			s := source(t, replicas(t, control)...)
			s.Keys = []signing.PublicKey{public}
			for range 2 { // pulled, then from the copy whose digest the replica confirms
				got, err := s.Obtain(t.Context(), p.Ref())
				if x.says == "" && (err != nil || got.Digest != p.Digest) {
					t.Errorf("%s, %v", got.Digest, err)
				}
				if x.says != "" && (err == nil || !strings.Contains(err.Error(), x.says) || !strings.Contains(err.Error(), "not started")) {
					t.Errorf("%v; want an error with %q", err, x.says)
				}
			}
			// Without the control plane what was kept decides.
			control.Stop()
			if _, err := s.Obtain(t.Context(), p.Ref()); (err == nil) != (x.says == "") {
				t.Errorf("while the control plane is away: %v", err)
			}
		})
	}
}

// A version that was kept before it was signed is signed as soon as a replica says so.
func TestASignatureThatComesLater(t *testing.T) {
	key, public := generate(t)
	control := fakecontrol.Start(t)
	p := control.Publish(map[string]string{"spec.yaml": manifest, "a/b.md": "text"})
	s := source(t, replicas(t, control)...)
	if _, err := s.Obtain(t.Context(), p.Ref()); err != nil {
		t.Fatal(err)
	}
	keys := []signing.PublicKey{public}
	if err := s.Signed(t.Context(), p, keys); err == nil {
		t.Error("it is signed by nobody and counts")
	}
	control.Sign(p.Digest, sign(t, key, p))
	if err := s.SignedHere(t.Context(), p, keys); err == nil {
		t.Error("the copy has a signature that nobody sent")
	}
	if err := s.Signed(t.Context(), p, keys); err != nil {
		t.Error(err)
	}
	if err := s.SignedHere(t.Context(), p, keys); err != nil {
		t.Errorf("it was not kept: %v", err)
	}
	kept, err := s.Copy.Attachments(t.Context(), p.Digest, "")
	if err != nil || len(kept) != 1 {
		t.Errorf("%d signatures are kept, %v", len(kept), err)
	}
	if _, err := s.Copy.Get(t.Context(), kept[0].Digest); err == nil || errors.Is(err, archive.ErrNotFound) {
		t.Errorf("a signature is given out as a version: %v", err)
	}
}
