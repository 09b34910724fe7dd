// Package execid mints and verifies execution ids.
//
// An id is `x1.<version>.<instance>.<random>.<mac>`: it names the version and the instance that run the execution, so that finding them needs
// no directory, and it carries a MAC under a key that only this version's sidecars and the control plane have. Invariant: an id that a client
// made up never verifies.
package execid

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"regexp"
	"strings"
	"sync"
)

const (
	scheme = "x1."
	// RandomSize is how many random bytes make an id unique and not guessable.
	RandomSize = 12
	macSize    = 16
	// maxLength bounds what Verify looks at: a version of 64, an instance of 63 and the fixed parts fit.
	maxLength = 256
)

var instancePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// CheckInstance says why an instance id cannot be part of an execution id, or nil: it is a DNS label.
func CheckInstance(instance string) error {
	if !instancePattern.MatchString(instance) {
		return fmt.Errorf("instance %q: an instance id is a DNS label: a-z, 0-9 and -, at most 63 characters", instance)
	}
	return nil
}

// Minter builds ids of one instance under one key. It is safe for concurrent use.
type Minter struct {
	key    []byte
	prefix string
	hashes sync.Pool // keyed ones: keying costs more than an id
}

// NewMinter makes a Minter.
func NewMinter(key []byte, version, instance string) *Minter {
	m := &Minter{key: bytes.Clone(key), prefix: scheme + version + "." + instance + "."}
	m.hashes.New = func() any { return &bench{hash: hmac.New(sha256.New, m.key)} }
	return m
}

// bench is where an id is made.
type bench struct {
	hash hash.Hash
	id   [maxLength]byte
	sum  [sha256.Size]byte
}

// Uses says whether the ids are minted under this key.
func (m *Minter) Uses(key []byte) bool { return bytes.Equal(m.key, key) }

// Mint builds an id. random must be fresh for every call.
func (m *Minter) Mint(random [RandomSize]byte) string {
	b := m.hashes.Get().(*bench)
	defer m.hashes.Put(b)
	id := append(b.id[:0], m.prefix...)
	id = base64.RawURLEncoding.AppendEncode(id, random[:])
	b.hash.Reset()
	b.hash.Write(id)
	id = append(id, '.')
	id = hex.AppendEncode(id, b.hash.Sum(b.sum[:0])[:macSize])
	return string(id)
}

// Mint builds one id. random must be fresh for every call.
func Mint(key []byte, version, instance string, random [RandomSize]byte) string {
	return NewMinter(key, version, instance).Mint(random)
}

// Verify says whether the id was minted under the key, and by which instance of which version.
func Verify(key []byte, id string) (version, instance string, ok bool) {
	cut := strings.LastIndexByte(id, '.')
	if cut < 0 || len(id) > maxLength || len(key) == 0 || !strings.HasPrefix(id, scheme) {
		return "", "", false
	}
	if body := id[:cut]; !hmac.Equal([]byte(sign(key, body)), []byte(id[cut+1:])) {
		return "", "", false
	}
	return Claims(id)
}

// Claims is the version and the instance that an id names, which nobody has verified: ids of another version cannot be. Only good for counting.
func Claims(id string) (version, instance string, ok bool) {
	if len(id) > maxLength || !strings.HasPrefix(id, scheme) {
		return "", "", false
	}
	// The version has dots, the instance and the random part have none.
	parts := strings.Split(id, ".")
	if len(parts) < 5 {
		return "", "", false
	}
	n := len(parts)
	return strings.Join(parts[1:n-3], "."), parts[n-3], true
}

func sign(key []byte, body string) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(body))
	return hex.EncodeToString(h.Sum(nil)[:macSize])
}
