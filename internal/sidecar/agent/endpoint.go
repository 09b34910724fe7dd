package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"time"
)

// Endpoint is where an agent takes requests.
type Endpoint struct {
	// TLS: speak https to it.
	TLS bool
	// Network is "tcp" or "unix", Address host:port or the socket's path.
	Network, Address string
	// Path is put before every request's path; no trailing slash.
	Path string
}

// ParseEndpoint reads http://host:port[/path], https://host[:port][/path] or unix:/path/to/socket.
func ParseEndpoint(s string) (Endpoint, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Endpoint{}, fmt.Errorf("upstream %q: %w", s, err)
	}
	switch u.Scheme {
	case "unix":
		if u.Path == "" || u.Host != "" {
			return Endpoint{}, fmt.Errorf("upstream %q: write unix:/path/to/socket", s)
		}
		return Endpoint{Network: "unix", Address: u.Path}, nil
	case "http", "https":
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		if u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return Endpoint{}, fmt.Errorf("upstream %q: write scheme, host and port alone, such as http://127.0.0.1:8000", s)
		}
		path := u.EscapedPath()
		for len(path) > 0 && path[len(path)-1] == '/' {
			path = path[:len(path)-1]
		}
		return Endpoint{TLS: u.Scheme == "https", Network: "tcp", Address: net.JoinHostPort(u.Hostname(), port), Path: path}, nil
	}
	return Endpoint{}, fmt.Errorf("upstream %q: write http://host:port, https://host:port or unix:/path/to/socket", s)
}

// String is the endpoint as ParseEndpoint reads it.
func (e Endpoint) String() string {
	if e.Network == "unix" {
		return "unix:" + e.Address
	}
	if e.TLS {
		return "https://" + e.Address + e.Path
	}
	return "http://" + e.Address + e.Path
}

// Dial connects to the agent.
func (e Endpoint) Dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, e.Network, e.Address)
}

// Watch tries to connect until ctx ends, every 20 ms until the agent answers for the first time and every interval after that, and tells of
// every change; the first call tells of the first answer. An attempt gets at most interval.
func (e Endpoint) Watch(ctx context.Context, interval time.Duration, tell func(answers bool, err error)) {
	answers, pause := false, min(interval, 20*time.Millisecond)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		attempt, cancel := context.WithTimeout(ctx, interval)
		conn, err := e.Dial(attempt)
		cancel()
		if err == nil {
			_ = conn.Close()
			pause = interval
		}
		if now := err == nil; now != answers && ctx.Err() == nil {
			answers = now
			tell(now, err)
		}
		timer.Reset(pause)
	}
}

// FreePort is a TCP port on 127.0.0.1 that was free a moment ago. Somebody else may take it before the agent does; the agent then fails to
// listen and says so.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port for the agent: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// BinaryDigest is "sha256:<hex>" of an executable. For a script run by an interpreter that is the interpreter's.
func BinaryDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("digest of the agent's executable: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("digest of the agent's executable %s: %w", path, err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}
