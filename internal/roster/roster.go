// Package roster reads the file that says who has a token of their own, and what they may do.
//
// Invariants: it holds no secret, only sums of them; a name and a sum stand for one bearer. The package is pure: no clock, no I/O, no goroutines.
package roster

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/specproxy/specproxy/internal/yamlerr"
)

// Role is what the bearer of a token may do.
type Role string

const (
	// Viewer reads.
	Viewer Role = "viewer"
	// Automation does what an operator does, but for what only a person may.
	Automation Role = "automation"
	// Operator changes what runs: any on-call engineer.
	Operator Role = "operator"
	// Admin also overrides post-mortems, changes policies, erases personal data and reads secrets.
	Admin Role = "admin"
)

// Roles from the least to the most.
func Roles() []Role { return []Role{Viewer, Automation, Operator, Admin} }

// ParseRole reads a role's name.
func ParseRole(name string) (Role, error) {
	if !slices.Contains(Roles(), Role(name)) {
		return "", fmt.Errorf("role %q is none of viewer, automation, operator and admin", name)
	}
	return Role(name), nil
}

// Bearer is who has a token.
type Bearer struct {
	Name string
	Role Role
	// Sum is the SHA-256 of the secret.
	Sum [sha256.Size]byte
}

// Line is the entry of the file for a secret.
func Line(name string, role Role, secret string) string {
	return fmt.Sprintf("  - {name: %s, role: %s, sha256: %x}", name, role, sha256.Sum256([]byte(secret)))
}

var name = regexp.MustCompile(`^[a-z0-9]([a-z0-9._@-]{0,62}[a-z0-9])?$`)

// CheckName refuses what is no name for a bearer.
func CheckName(text string) error {
	if !name.MatchString(text) {
		return fmt.Errorf("%q is no name for a token: write 1 to 64 of a-z, 0-9, '.', '_', '@' and '-', with a letter or digit at both ends", text)
	}
	return nil
}

const (
	// MaxFile is the size of a file in bytes.
	MaxFile = 1 << 20
	// maxBearers of a file.
	maxBearers = 1000
)

// Parse reads a file's text.
func Parse(text []byte) ([]Bearer, error) {
	if len(text) > MaxFile {
		return nil, fmt.Errorf("has more than %d bytes", MaxFile)
	}
	var list struct {
		Tokens []struct {
			Name   string `yaml:"name"`
			Role   string `yaml:"role"`
			SHA256 string `yaml:"sha256"`
		} `yaml:"tokens"`
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&list); err != nil {
		return nil, fmt.Errorf("is no YAML with a list named tokens: %w", yamlerr.Plain(err))
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("has more than one document")
	}
	if len(list.Tokens) > maxBearers {
		return nil, fmt.Errorf("lists %d tokens: at most %d", len(list.Tokens), maxBearers)
	}
	var out []Bearer
	for i, t := range list.Tokens {
		role, err := ParseRole(t.Role)
		if err := errors.Join(CheckName(t.Name), err); err != nil {
			return nil, fmt.Errorf("tokens[%d] (%q): %w", i, t.Name, err)
		}
		sum, err := hex.DecodeString(t.SHA256)
		if err != nil || len(sum) != sha256.Size {
			return nil, fmt.Errorf("tokens[%d] (%s): sha256 is not 64 hexadecimal digits", i, t.Name)
		}
		b := Bearer{t.Name, role, [sha256.Size]byte(sum)}
		for _, other := range out {
			switch {
			case other.Name == b.Name:
				return nil, fmt.Errorf("tokens[%d]: a second token is named %s", i, b.Name)
			case other.Sum == b.Sum:
				return nil, fmt.Errorf("tokens[%d] (%s): has the secret of %s", i, b.Name, other.Name)
			}
		}
		out = append(out, b)
	}
	return out, nil
}
