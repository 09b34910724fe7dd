// Package auth keeps strangers out: tokens, the listen rule, and the checks that keep a browser from being used against a local server.
//
// Invariants: nothing listens beyond loopback without TLS and a token; the operator API always wants a token, loopback or not; secrets are
// compared in constant time and never logged.
package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// AdminTokenFile is the name of the first admin's token in the data directory.
const AdminTokenFile = "admin.token"

// Token is a shared secret. The zero value matches nothing.
type Token struct{ sum [sha256.Size]byte }

// NewToken keeps only a hash of the secret.
func NewToken(secret string) Token { return Token{sha256.Sum256([]byte(secret))} }

// Matches compares in constant time.
func (t Token) Matches(secret string) bool {
	sum := sha256.Sum256([]byte(secret))
	return t != (Token{}) && subtle.ConstantTimeCompare(t.sum[:], sum[:]) == 1
}

// MatchesBearer takes the value of an Authorization header.
func (t Token) MatchesBearer(header string) bool {
	secret, ok := strings.CutPrefix(header, "Bearer ")
	return ok && t.Matches(strings.TrimSpace(secret))
}

// AdminToken reads the admin token of a data directory, or creates it, mode 0600. It refuses a file that others can read.
func AdminToken(dataDir string) (Token, error) {
	path := filepath.Join(dataDir, AdminTokenFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw := make([]byte, 32)
		if _, err := rand.Read(raw); err != nil {
			return Token{}, err
		}
		secret := "spx_" + hex.EncodeToString(raw)
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return Token{}, fmt.Errorf("create the admin token: %w", err)
		}
		_, err = f.WriteString(secret + "\n")
		if err = errors.Join(err, f.Close()); err != nil {
			return Token{}, fmt.Errorf("write the admin token: %w", err)
		}
		return NewToken(secret), nil
	}
	if err != nil {
		return Token{}, fmt.Errorf("admin token: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return Token{}, fmt.Errorf("%s can be read by others (mode %o); protect it: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	return ReadToken(path)
}

// ReadToken reads a token file: one line.
func ReadToken(path string) (Token, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Token{}, fmt.Errorf("token file: %w", err)
	}
	secret := strings.TrimSpace(string(raw))
	if len(secret) < 16 {
		return Token{}, fmt.Errorf("token file %s holds no token of 16 characters or more", path)
	}
	return NewToken(secret), nil
}

// CheckListen refuses an address beyond loopback without TLS and a token. flag names what to change.
func CheckListen(flag, address string, tls, token bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--%s %q is not host:port: %w", flag, address, err)
	}
	if Loopback(host) || tls && token {
		return nil
	}
	var missing []string
	if !tls {
		missing = append(missing, "TLS (--tls-cert and --tls-key)")
	}
	if !token {
		missing = append(missing, "a token (--token-file)")
	}
	return fmt.Errorf("--%s %s reaches beyond this machine and needs %s; or listen on 127.0.0.1", flag, address, strings.Join(missing, " and "))
}

// Loopback says whether a host name or address is this machine only.
func Loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

// Actor makes the audit's name of a caller from its role and what it says of itself.
func Actor(role, claimed string) string {
	claimed = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, claimed)
	if len(claimed) > 100 {
		claimed = claimed[:100]
	}
	if claimed == "" {
		return role
	}
	return role + " (" + claimed + ")"
}
