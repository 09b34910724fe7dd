package signing

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/signerverifier"
)

// Algorithms of keys.
const (
	Ed25519   = "ed25519"
	ECDSAP256 = "ecdsa-p256"
)

// maxKeySize bounds a PEM file.
const maxKeySize = 16 << 10

// PublicKey is one that signatures are checked against.
type PublicKey struct {
	// ID is the key's id as in-toto's tools compute it: hexadecimal, the same for the private and the public half.
	ID string
	// PEM is the key in the one form in which this package writes it.
	PEM string

	verifier dsse.Verifier
}

// PrivateKey signs.
type PrivateKey struct {
	Public PublicKey

	signer dsse.Signer
}

// GenerateKey makes a key pair, as PEM: PKCS #8 and PKIX.
func GenerateKey(algorithm string) (private, public []byte, err error) {
	var key any
	var half any
	switch algorithm {
	case Ed25519:
		pub, priv, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		key, half = priv, pub
	case ECDSAP256:
		priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		key, half = priv, priv.Public()
	default:
		return nil, nil, fmt.Errorf("keys of kind %q are not made here: there is %s and %s", algorithm, Ed25519, ECDSAP256)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	pub, err := x509.MarshalPKIXPublicKey(half)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}), nil
}

// ParsePublicKey reads a PEM public key, ed25519 or ecdsa. A private key is refused: it has no business where public ones are wanted.
func ParsePublicKey(text []byte) (PublicKey, error) {
	block, err := onlyBlock(text)
	if err != nil {
		return PublicKey{}, err
	}
	if strings.Contains(block.Type, "PRIVATE") {
		return PublicKey{}, errors.New("this is a private key: give the public one that belongs to it, and keep this one to yourself")
	}
	if block.Type != "PUBLIC KEY" {
		return PublicKey{}, fmt.Errorf("this is a %q in PEM: want a PUBLIC KEY (PKIX)", block.Type)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	plain := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	both, err := load(plain, key)
	if err != nil {
		return PublicKey{}, err
	}
	id, err := both.KeyID()
	if err != nil {
		return PublicKey{}, err
	}
	return PublicKey{ID: id, PEM: string(plain), verifier: both}, nil
}

// ParsePublicKeys reads several, each once.
func ParsePublicKeys(texts []string) ([]PublicKey, error) {
	var keys []PublicKey
	seen := map[string]bool{}
	for _, text := range texts {
		key, err := ParsePublicKey([]byte(text))
		if err != nil {
			return nil, err
		}
		if !seen[key.ID] {
			seen[key.ID] = true
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// ParsePrivateKey reads a PEM private key, ed25519 (PKCS #8) or ecdsa (PKCS #8 or SEC 1), that is not encrypted.
func ParsePrivateKey(text []byte) (PrivateKey, error) {
	block, err := onlyBlock(text)
	if err != nil {
		return PrivateKey{}, err
	}
	var key any
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PUBLIC KEY":
		return PrivateKey{}, errors.New("this is a public key: signing takes the private one that belongs to it")
	default:
		return PrivateKey{}, fmt.Errorf("this is a %q in PEM: want a PRIVATE KEY (PKCS #8, not encrypted)", block.Type)
	}
	if err != nil {
		return PrivateKey{}, fmt.Errorf("private key: %w", err)
	}
	var half any
	switch k := key.(type) {
	case ed25519.PrivateKey:
		half = k.Public()
	case *ecdsa.PrivateKey:
		half = k.Public()
	default:
		return PrivateKey{}, fmt.Errorf("a key of type %T: want ed25519 or ecdsa", key)
	}
	// SEC 1 in, PKCS #8 on: one form for the library.
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("private key: %w", err)
	}
	both, err := load(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), half)
	if err != nil {
		return PrivateKey{}, err
	}
	pub, err := x509.MarshalPKIXPublicKey(half)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("private key: %w", err)
	}
	public, err := ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}))
	if err != nil {
		return PrivateKey{}, err
	}
	return PrivateKey{Public: public, signer: both}, nil
}

// load makes the library's key of a PEM whose public half is known.
func load(text []byte, public any) (dsse.SignerVerifier, error) {
	key, err := signerverifier.LoadKey(text)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	switch p := public.(type) {
	case ed25519.PublicKey:
		return signerverifier.NewED25519SignerVerifierFromSSLibKey(key)
	case *ecdsa.PublicKey:
		if p.Curve == elliptic.P224() {
			return nil, errors.New("an ecdsa key on P-224 is too weak: use P-256 or ed25519")
		}
		return signerverifier.NewECDSASignerVerifierFromSSLibKey(key)
	}
	return nil, fmt.Errorf("a key of type %T: want ed25519 or ecdsa", public)
}

func onlyBlock(text []byte) (*pem.Block, error) {
	if len(text) > maxKeySize {
		return nil, fmt.Errorf("%d bytes are no key: want one PEM block", len(text))
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, errors.New("there is no PEM block in it: want a key as specctl key generate writes it")
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, errors.New("there are several PEM blocks in it: give each key in a file of its own")
	}
	return block, nil
}
