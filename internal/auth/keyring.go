package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"
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
var Roles = []Role{Viewer, Automation, Operator, Admin}

// ParseRole reads a role's name.
func ParseRole(name string) (Role, error) {
	if !slices.Contains(Roles, Role(name)) {
		return "", fmt.Errorf("role %q is none of viewer, automation, operator and admin", name)
	}
	return Role(name), nil
}

// Caller is the bearer of a token.
type Caller struct {
	// Name of the token; empty: the first admin's, which people share.
	Name string
	Role Role
}

// Changes says that the caller may change what runs.
func (c Caller) Changes() bool { return c.Role == Operator || c.Role == Automation || c.Role == Admin }

// Actor is the audit's name of the caller. What it says of itself counts only where the token is nobody's own.
func (c Caller) Actor(claimed string) string {
	if c.Name == "" {
		return Actor(string(c.Role), claimed)
	}
	return string(c.Role) + " " + c.Name
}

type callerKey struct{}

// CallerOf is who Guard found a request to be from; false: nobody that it let in.
func CallerOf(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

func withCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// NamedToken is an entry of the tokens' file: a name, a role, and the SHA-256 of the secret in hexadecimal.
type NamedToken struct {
	Name   string `yaml:"name"`
	Role   Role   `yaml:"role"`
	SHA256 string `yaml:"sha256"`
}

// Entry is the line of the tokens' file for a secret.
func Entry(name string, role Role, secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return fmt.Sprintf("  - {name: %s, role: %s, sha256: %s}", name, role, hex.EncodeToString(sum[:]))
}

var tokenName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._@-]{0,62}[a-z0-9])?$`)

// CheckTokenName refuses what is no name for a token.
func CheckTokenName(name string) error {
	if !tokenName.MatchString(name) {
		return fmt.Errorf("%q is no name for a token: write 1 to 64 of a-z, 0-9, '.', '_', '@' and '-', with a letter or digit at both ends", name)
	}
	return nil
}

const (
	// maxTokens in a file, and its size.
	maxTokens     = 1000
	maxTokensFile = 1 << 20
	// lookEvery is how often the file is looked at, if there are requests at all.
	lookEvery = time.Second
)

// Keyring knows the first admin's token, and those of a file, which is read again when it changes. It may be used from many goroutines.
type Keyring struct {
	admin Token
	file  string
	log   *zap.Logger
	now   func() time.Time

	mu     sync.Mutex
	looked time.Time
	seen   stamp
	broken bool
	named  []key
}

type key struct {
	Token
	caller Caller
}

type stamp struct {
	size     int64
	modified time.Time
}

// NewKeyring reads the file; an empty name is none. now is the clock; nil: time.Now.
func NewKeyring(admin Token, file string, log *zap.Logger, now func() time.Time) (*Keyring, error) {
	if now == nil {
		now = time.Now
	}
	k := &Keyring{admin: admin, file: file, log: log, now: now}
	if file == "" {
		return k, nil
	}
	var err error
	k.seen, k.looked = look(file), now()
	k.named, err = readTokens(file)
	return k, err
}

func look(file string) stamp {
	info, err := os.Stat(file)
	if err != nil {
		return stamp{}
	}
	return stamp{info.Size(), info.ModTime()}
}

// Caller finds the bearer of a secret.
func (k *Keyring) Caller(secret string) (Caller, bool) {
	found, ok := k.find(secret)
	return found.caller, ok
}

func (k *Keyring) find(secret string) (key, bool) {
	for _, known := range k.keys() {
		if known.Matches(secret) {
			return known, true
		}
	}
	return key{}, false
}

// Bearer finds who sends an Authorization header.
func (k *Keyring) Bearer(header string) (Caller, bool) {
	secret, ok := strings.CutPrefix(header, "Bearer ")
	if !ok {
		return Caller{}, false
	}
	return k.Caller(strings.TrimSpace(secret))
}

// keys are all that open something now.
func (k *Keyring) keys() []key {
	admin := key{k.admin, Caller{Role: Admin}}
	if k.file == "" {
		return []key{admin}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.now(); now.Sub(k.looked) >= lookEvery || now.Before(k.looked) {
		k.looked = now
		k.reread()
	}
	return append([]key{admin}, k.named...)
}

// reread reads a file that has changed. One that cannot be read changes nothing: a slip of the pen must not lock out who is to roll back. k.mu is held.
func (k *Keyring) reread() {
	seen := look(k.file)
	if seen == k.seen {
		return
	}
	k.seen = seen
	named, err := readTokens(k.file)
	if k.broken = err != nil; k.broken {
		k.log.Error("the changed --tokens cannot be used; those that were in force stay in force, also any that it was to take away", zap.Error(err))
		return
	}
	k.named = named
	k.log.Info("the changed --tokens are in force", zap.Int("tokens", len(named)))
}

// Broken says that the file has changed and cannot be used, so that older tokens are in force.
func (k *Keyring) Broken() bool {
	k.keys()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.broken
}

// Session is what a browser gets for a token: it opens pages that are only read, until then and no longer. The token cannot be had from it, and
// when the token goes, so does the session.
func (k *Keyring) Session(secret string, until time.Time) (session string, ok bool) {
	found, ok := k.find(secret)
	if !ok {
		return "", false
	}
	return found.session(k.admin, until), true
}

// OpensSession says whether a session was made for a token that is still known, and has not ended.
func (k *Keyring) OpensSession(session string) bool {
	return slices.ContainsFunc(k.keys(), func(known key) bool { return known.opens(k.admin, session, k.now()) })
}

func readTokens(file string) ([]key, error) {
	wrong := func(format string, args ...any) ([]key, error) {
		return nil, fmt.Errorf("--tokens %s: %s\nmake entries with: specctl token generate NAME --role ROLE", file, fmt.Sprintf(format, args...))
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("--tokens: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("--tokens: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return nil, fmt.Errorf("--tokens %s can be written by others (mode %04o); protect it: chmod 644 %s", file, mode, file)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxTokensFile+1))
	if err != nil {
		return nil, fmt.Errorf("--tokens: %w", err)
	}
	if len(raw) > maxTokensFile {
		return wrong("has more than %d bytes", maxTokensFile)
	}
	var list struct {
		Tokens []NamedToken `yaml:"tokens"`
	}
	d := yaml.NewDecoder(strings.NewReader(string(raw)))
	d.KnownFields(true)
	if err := d.Decode(&list); err != nil {
		return wrong("is no YAML with a list named tokens: %v", err)
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return wrong("has more than one document")
	}
	if len(list.Tokens) > maxTokens {
		return wrong("lists %d tokens: at most %d", len(list.Tokens), maxTokens)
	}
	var named []key
	names, sums := map[string]bool{}, map[Token]string{}
	for i, t := range list.Tokens {
		if err := CheckTokenName(t.Name); err != nil {
			return wrong("tokens[%d]: %v", i, err)
		}
		role, err := ParseRole(string(t.Role))
		if err != nil {
			return wrong("tokens[%d] (%s): %v", i, t.Name, err)
		}
		var token Token
		if n, err := hex.Decode(token.sum[:], []byte(t.SHA256)[:min(len(t.SHA256), 2*len(token.sum))]); err != nil || n != len(token.sum) || len(t.SHA256) != 2*n {
			return wrong("tokens[%d] (%s): sha256 is not 64 hexadecimal digits", i, t.Name)
		}
		if names[t.Name] {
			return wrong("tokens[%d]: a second token is named %s", i, t.Name)
		}
		if other, twice := sums[token]; twice {
			return wrong("tokens[%d] (%s): has the secret of %s", i, t.Name, other)
		}
		names[t.Name], sums[token] = true, t.Name
		named = append(named, key{token, Caller{t.Name, role}})
	}
	return named, nil
}

// sign binds a session to a token by what only the control plane knows, since the sums of named tokens stand in a file.
func (known key) sign(secret Token, expiry string) []byte {
	mac := hmac.New(sha256.New, secret.sum[:])
	fmt.Fprintf(mac, "specproxy session of %x until %s", known.sum, expiry)
	return mac.Sum(nil)
}
