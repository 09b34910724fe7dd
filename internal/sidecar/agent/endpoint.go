package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
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
	// Roots are the authorities that may vouch for an agent that speaks TLS; nil: the system's.
	Roots *x509.CertPool
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

// ClientTLS is how to speak TLS to the agent.
func (e Endpoint) ClientTLS() *tls.Config {
	return &tls.Config{RootCAs: e.Roots, MinVersion: tls.VersionTLS12}
}

// dialTimeout bounds how long an agent may take to accept a connection: one whose queue is full takes none.
const dialTimeout = 5 * time.Second

// Dial connects to the agent.
func (e Endpoint) Dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	return d.DialContext(ctx, e.Network, e.Address)
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
