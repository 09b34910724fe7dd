package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/roster"
)

// Caller is the bearer of a token.
type Caller struct {
	// Name of the token; empty: the first admin's, which people share.
	Name string
	Role roster.Role
}

// Changes says that the caller may change what runs.
func (c Caller) Changes() bool {
	return c.Role == roster.Operator || c.Role == roster.Automation || c.Role == roster.Admin
}

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

// lookEvery is how often the file is looked at, if there are requests at all.
const lookEvery = time.Second

// Keyring knows the first admin's token, and those of a file, which is read again when it changes. It may be used from many goroutines.
type Keyring struct {
	admin Token
	file  string
	log   *zap.Logger
	now   func() time.Time

	mu     sync.Mutex
	looked time.Time
	seen   stamp
	broken string // why the file cannot be used; empty: it can
	named  []key
}

type key struct {
	Token
	caller Caller
}

type stamp struct {
	size     int64
	modified time.Time
	mode     os.FileMode
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
	return stamp{info.Size(), info.ModTime(), info.Mode()}
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
	admin := key{k.admin, Caller{Role: roster.Admin}}
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
	if seen == k.seen && k.broken == "" {
		return
	}
	k.seen = seen
	named, err := readTokens(k.file) // again and again while it cannot be used, since what is in its way need not be its own
	if err != nil {
		if err.Error() != k.broken {
			k.log.Error("the changed --tokens cannot be used; those that were in force stay in force, also any that it was to take away", zap.Error(err))
		}
		k.broken = err.Error()
		return
	}
	k.named, k.broken = named, ""
	k.log.Info("the changed --tokens are in force", zap.Int("tokens", len(named)))
}

// Broken says that the file has changed and cannot be used, so that older tokens are in force.
func (k *Keyring) Broken() bool {
	k.keys()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.broken != ""
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
	text, err := io.ReadAll(io.LimitReader(f, roster.MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("--tokens: %w", err)
	}
	bearers, err := roster.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("--tokens %s: %w\nmake entries with: specctl token generate NAME --role ROLE", file, err)
	}
	keys := make([]key, 0, len(bearers))
	for _, b := range bearers {
		keys = append(keys, key{Token{b.Sum}, Caller{b.Name, b.Role}})
	}
	return keys, nil
}

// sign binds a session to a token by what only the control plane knows, since the sums of named tokens stand in a file.
func (known key) sign(secret Token, expiry string) []byte {
	mac := hmac.New(sha256.New, secret.sum[:])
	fmt.Fprintf(mac, "specproxy session of %x until %s", known.sum, expiry)
	return mac.Sum(nil)
}
