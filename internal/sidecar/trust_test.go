package sidecar_test

import (
	"strings"
	"testing"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/sidecar/fakecontrol"
	"github.com/specproxy/specproxy/internal/signing"
)

func generateKey(t *testing.T) signing.PrivateKey {
	t.Helper()
	private, _, err := signing.GenerateKey(signing.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	key, err := signing.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What the policy demands is checked here too: the instance is not ready until a signature is there, and is when one comes.
func TestDemandedSignature(t *testing.T) {
	key := generateKey(t)
	r := newRig(t, guarded)
	r.control.SetState(func(s *sidecarv1.State) { s.RequiredKeys = []string{key.Public.PEM} })
	r.run()
	v := r.control.Wait("a reason", func(v fakecontrol.View) bool { return strings.Contains(v.Status.GetReason(), "demands a signature") })
	if v.Status.GetReady() || !strings.Contains(v.Status.GetReason(), "specctl sign customer-service:2.1.0 --key FILE") {
		t.Errorf("status %v", v.Status)
	}
	envelope, err := signing.Sign(t.Context(), key, signing.Of(r.version))
	if err != nil {
		t.Fatal(err)
	}
	r.control.Sign(r.version.Digest, envelope)
	r.ready()

	// Other keys are demanded: back to not ready; none: ready again.
	r.control.SetState(func(s *sidecarv1.State) { s.RequiredKeys = []string{generateKey(t).Public.PEM} })
	r.control.Wait("not ready", func(v fakecontrol.View) bool {
		return !v.Status.GetReady() && strings.Contains(v.Status.GetReason(), "none of the keys that count")
	})
	r.control.SetState(func(s *sidecarv1.State) { s.RequiredKeys = nil })
	r.ready()
}

// A signature that came with the version counts from the first moment, and while the control plane is away.
func TestSignedVersionIsReadyAtOnce(t *testing.T) {
	key := generateKey(t)
	r := newRig(t, guarded)
	envelope, err := signing.Sign(t.Context(), key, signing.Of(r.version))
	if err != nil {
		t.Fatal(err)
	}
	r.control.Sign(r.version.Digest, envelope)
	r.control.SetState(func(s *sidecarv1.State) { s.RequiredKeys = []string{key.Public.PEM} })
	r.options.RequireKeys = []signing.PublicKey{key.Public}
	r.run()
	r.ready()
}

func TestRequireKeyStartsNothingUnsigned(t *testing.T) {
	r := newRig(t, guarded)
	r.options.RequireKeys = []signing.PublicKey{generateKey(t).Public}
	r.run()
	if err := r.ended(); err == nil || !strings.Contains(err.Error(), "customer-service:2.1.0 has no signature") || !strings.Contains(err.Error(), "--require-key") {
		t.Errorf("it ended with %v", err)
	}
	if v := r.control.Wait("nothing", func(fakecontrol.View) bool { return true }); len(v.Hellos) > 0 {
		t.Error("it registered")
	}
}
