package signing_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/signerverifier"

	"github.com/specproxy/specproxy/internal/signing"
	"github.com/specproxy/specproxy/internal/versions"
)

type pair struct {
	text    []byte // PEM of the private half
	private signing.PrivateKey
	public  signing.PublicKey
}

func generate(t testing.TB, algorithm string) pair {
	t.Helper()
	private, public, err := signing.GenerateKey(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	key, err := signing.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := signing.ParsePublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if key.Public.ID != pub.ID || key.Public.PEM != pub.PEM {
		t.Fatalf("the halves of a key have two ids: %s and %s", key.Public.ID, pub.ID)
	}
	return pair{private, key, pub}
}

func pack(t testing.TB, version, contract, prompt string) versions.Packed {
	t.Helper()
	p, err := versions.Pack(map[string][]byte{
		"spec.yaml": fmt.Appendf(nil, "name: customer-service\nversion: %s\ndocuments: [prompt.md]\ninFlight: {default: {onRollback: %s}}\n", version, contract),
		"prompt.md": []byte(prompt),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func sign(t testing.TB, key signing.PrivateKey, s signing.Subject) []byte {
	t.Helper()
	envelope, err := signing.Sign(t.Context(), key, s)
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

func TestSignedVersionsVerify(t *testing.T) {
	p := signing.Of(pack(t, "2.1.0", "complete", "Be kind."))
	stranger := generate(t, signing.Ed25519)
	for _, algorithm := range []string{signing.Ed25519, signing.ECDSAP256} {
		key := generate(t, algorithm)
		envelope := sign(t, key.private, p)
		got, err := signing.Verify(envelope, p, []signing.PublicKey{stranger.public, key.public})
		if err != nil || got.ID != key.public.ID {
			t.Errorf("%s: %v by %q, want %q", algorithm, err, got.ID, key.public.ID)
		}
		if ids := signing.KeyIDs(envelope); len(ids) != 1 || ids[0] != key.public.ID {
			t.Errorf("%s: the envelope names %q, want %q", algorithm, ids, key.public.ID)
		}
		if _, err := signing.Verify(envelope, p, []signing.PublicKey{stranger.public}); err == nil || !strings.Contains(err.Error(), "none of the keys that count") {
			t.Errorf("%s: a stranger's key verifies: %v", algorithm, err)
		}
		if _, err := signing.Verify(envelope, p, nil); err == nil {
			t.Errorf("%s: it verifies without any key", algorithm)
		}
	}
}

func TestTheSameKeySignsTheSameBytes(t *testing.T) {
	key, p := generate(t, signing.Ed25519), signing.Of(pack(t, "2.1.0", "complete", "Be kind."))
	if a, b := sign(t, key.private, p), sign(t, key.private, p); !bytes.Equal(a, b) {
		t.Errorf("two envelopes:\n%s\n%s", a, b)
	}
}

// Whatever of a version is exchanged, its document, its in-flight contract or its number, the signature no longer counts.
func TestASignatureCoversAllOfAVersion(t *testing.T) {
	key := generate(t, signing.Ed25519)
	signed := signing.Of(pack(t, "2.1.0", "complete", "Be kind."))
	envelope := sign(t, key.private, signed)
	for name, other := range map[string]signing.Subject{
		"another document": signing.Of(pack(t, "2.1.0", "complete", "Be firm.")),
		"another contract": signing.Of(pack(t, "2.1.0", "cancel", "Be kind.")),
		"another number":   signing.Of(pack(t, "2.1.1", "complete", "Be kind.")),
		"another name":     {Ref: versions.Ref{Spec: "billing", Version: "2.1.0"}, Digest: signed.Digest},
	} {
		if _, err := signing.Verify(envelope, other, []signing.PublicKey{key.public}); err == nil || !strings.Contains(err.Error(), "it is about customer-service:2.1.0") {
			t.Errorf("%s verifies: %v", name, err)
		}
		if _, err := signing.Claims(envelope, other); err == nil {
			t.Errorf("%s: the envelope is said to be about it", name)
		}
	}
}

// No single byte of an envelope can be changed so that it says something else and still counts.
func TestTamperedEnvelopes(t *testing.T) {
	key := generate(t, signing.Ed25519)
	p := signing.Of(pack(t, "2.1.0", "complete", "Be kind."))
	envelope := sign(t, key.private, p)
	statement := payloadOf(t, envelope)
	for i := range envelope {
		for _, flip := range []byte{1, 0x20} {
			tampered := append([]byte(nil), envelope...)
			tampered[i] ^= flip
			if _, err := signing.Verify(tampered, p, []signing.PublicKey{key.public}); err == nil && payloadOf(t, tampered) != statement {
				t.Fatalf("byte %d changed: it counts and says\n%s", i, payloadOf(t, tampered))
			}
		}
	}
}

func payloadOf(t *testing.T, envelope []byte) string {
	t.Helper()
	var e dsse.Envelope
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	data, err := e.DecodeB64Payload()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// resigned makes a valid envelope around any payload.
func resigned(t *testing.T, private []byte, payloadType, payload string) []byte {
	t.Helper()
	key, err := signerverifier.LoadKey(private)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signerverifier.NewED25519SignerVerifierFromSSLibKey(key)
	if err != nil {
		t.Fatal(err)
	}
	with, err := dsse.NewEnvelopeSigner(signer)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := with.SignPayload(t.Context(), payloadType, []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(envelope)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestValidSignaturesOfOtherThings(t *testing.T) {
	key := generate(t, signing.Ed25519)
	p := signing.Of(pack(t, "2.1.0", "complete", "Be kind."))
	good := payloadOf(t, sign(t, key.private, p))
	hex := strings.TrimPrefix(p.Digest, "sha256:")
	for name, x := range map[string]struct{ payloadType, payload, says string }{
		"another payload type":   {"text/plain", good, "its payload is"},
		"no statement":           {signing.PayloadType, "[]", "no in-toto statement"},
		"another statement type": {signing.PayloadType, strings.Replace(good, "Statement/v1", "Statement/v0.1", 1), "it states"},
		"another predicate":      {signing.PayloadType, strings.Replace(good, "attestation/release", "attestation/vulnerable", 1), "it states"},
		"no predicate":           {signing.PayloadType, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"x","digest":{"sha256":"` + hex + `"}}],"predicateType":"x"}`, "no in-toto statement"},
		"two subjects":           {signing.PayloadType, strings.Replace(good, `"subject":[`, `"subject":[{"name":"x","digest":{"sha256":"`+hex+`"}},`, 1), "about 2 things"},
		"another hash":           {signing.PayloadType, strings.Replace(good, `"sha256"`, `"sha512"`, 1), "no in-toto statement"},
		"fields nobody knows":    {signing.PayloadType, strings.Replace(good, `{`, `{"also":1,`, 1), "no in-toto statement"},
	} {
		envelope := resigned(t, key.text, x.payloadType, x.payload)
		if _, err := signing.Verify(envelope, p, []signing.PublicKey{key.public}); err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v; want an error with %q", name, err, x.says)
		}
	}
}

func TestWhatIsNoEnvelope(t *testing.T) {
	key := generate(t, signing.Ed25519)
	p := signing.Of(pack(t, "2.1.0", "complete", "Be kind."))
	many := `{"payload":"","payloadType":"x","signatures":[` + strings.TrimSuffix(strings.Repeat(`{"sig":"AA=="},`, 20), ",") + `]}`
	for name, envelope := range map[string]string{
		"nothing": "", "no JSON": "hello", "no signature": `{"payload":"e30=","payloadType":"x","signatures":[]}`, "too many": many,
		"too large": strings.Repeat(" ", versions.MaxSignatureSize+1),
		"no base64": `{"payload":"!","payloadType":"x","signatures":[{"sig":"!"}]}`,
	} {
		if _, err := signing.Verify([]byte(envelope), p, []signing.PublicKey{key.public}); err == nil {
			t.Errorf("%s verifies", name)
		}
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	private, public, err := signing.GenerateKey(signing.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaDER, rsaErr := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weakDER, weakErr := x509.MarshalPKIXPublicKey(&weak.PublicKey)
	for name, x := range map[string]struct {
		text []byte
		says string
	}{
		"nothing":          {nil, "no PEM block"},
		"a private key":    {private, "this is a private key"},
		"two keys":         {append(append([]byte(nil), public...), public...), "several PEM blocks"},
		"a certificate":    {block("CERTIFICATE", []byte{1}, nil), `"CERTIFICATE"`},
		"damaged":          {block("PUBLIC KEY", []byte{1, 2, 3}, nil), "public key:"},
		"rsa":              {block("PUBLIC KEY", rsaDER, rsaErr), "want ed25519 or ecdsa"},
		"ecdsa on P-224":   {block("PUBLIC KEY", weakDER, weakErr), "too weak"},
		"a file, not keys": {make([]byte, 1<<20), "are no key"},
	} {
		if _, err := signing.ParsePublicKey(x.text); err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v; want an error with %q", name, err, x.says)
		}
	}
	if _, err := signing.ParsePrivateKey(public); err == nil || !strings.Contains(err.Error(), "this is a public key") {
		t.Errorf("a public key to sign with: %v", err)
	}
	if _, _, err := signing.GenerateKey("rsa"); err == nil {
		t.Error("an rsa key was made")
	}
	keys, err := signing.ParsePublicKeys([]string{string(public), string(public)})
	if err != nil || len(keys) != 1 {
		t.Errorf("the same key twice gives %d keys, %v", len(keys), err)
	}
	sec1, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1DER, sec1Err := x509.MarshalECPrivateKey(sec1)
	if _, err := signing.ParsePrivateKey(block("EC PRIVATE KEY", sec1DER, sec1Err)); err != nil {
		t.Errorf("an ecdsa key in SEC 1: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	key := generate(f, signing.Ed25519)
	p := signing.Of(pack(f, "2.1.0", "complete", "Be kind."))
	good := sign(f, key.private, p)
	f.Add(good)
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"keyid":"","sig":"AA=="}]}`))
	f.Fuzz(func(t *testing.T, envelope []byte) {
		if _, err := signing.Verify(envelope, p, []signing.PublicKey{key.public}); err != nil {
			return
		}
		var a, b dsse.Envelope
		if json.Unmarshal(envelope, &a) != nil || json.Unmarshal(good, &b) != nil {
			t.Fatal("what counts is no envelope")
		}
		x, _ := a.DecodeB64Payload()
		y, _ := base64.StdEncoding.DecodeString(b.Payload)
		if !bytes.Equal(x, y) {
			t.Fatalf("a forged statement counts: %s", x)
		}
	})
}
