package notify

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/net/http/httpguts"

	"github.com/specproxy/specproxy/internal/yamlerr"
)

// Config is the file of --webhooks.
type Config struct {
	// Source is CloudEvents' source: who says it. Default "/specproxy".
	Source    string     `yaml:"source"`
	Receivers []Receiver `yaml:"webhooks"`
}

// Receiver is one that is told.
type Receiver struct {
	Name string `yaml:"name"`
	// URL is that which messages are posted to.
	URL Value `yaml:"url"`
	// Secret signs the messages: "whsec_" and base64 as of Standard Webhooks, or any text of 24 bytes or more. One a line, the newest first:
	// all of them sign.
	Secret Value `yaml:"secret"`
	// Format of the body: cloudevents (default), slack, tracker, template.
	Format string `yaml:"format"`
	// Template is the file of a text/template whose data is a Message; with format template.
	Template string `yaml:"template"`
	// ContentType of what the template makes. Default application/json; then the result must be JSON.
	ContentType string `yaml:"contentType"`
	// Events are kinds of messages, with * for any ending. Default: all but chain.head.
	Events []string `yaml:"events"`
	// Specs that it is told of. Default: all.
	Specs []string `yaml:"specs"`
	// Headers that every request has besides.
	Headers map[string]Value `yaml:"headers"`

	template *template.Template
}

// Value is a text, or where it is read from: {file: PATH} or {env: NAME}. Files are read again for every request.
type Value struct {
	Text string `yaml:"-"`
	File string `yaml:"file"`
	Env  string `yaml:"env"`
}

// UnmarshalYAML takes a text for itself.
func (v *Value) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		return node.Decode(&v.Text)
	}
	type plain Value
	return node.Decode((*plain)(v))
}

func (v Value) set() bool { return v != Value{} }

// read the text.
func (v Value) read() (string, error) {
	switch {
	case v.File != "":
		raw, err := os.ReadFile(v.File)
		if err != nil {
			return "", err
		}
		return strings.TrimSpace(string(raw)), nil
	case v.Env != "":
		text, ok := os.LookupEnv(v.Env)
		if !ok {
			return "", fmt.Errorf("the environment has no %s", v.Env)
		}
		return strings.TrimSpace(text), nil
	}
	return v.Text, nil
}

// Load reads and checks a file. Nothing is sent.
func Load(file string) (*Config, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var c Config
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil {
		return nil, fmt.Errorf("%s: %w", file, yamlerr.Plain(err))
	}
	if c.Source == "" {
		c.Source = "/specproxy"
	}
	if _, err := url.Parse(c.Source); err != nil {
		return nil, fmt.Errorf("%s: source %q is no URI: %w", file, c.Source, err)
	}
	if len(c.Receivers) == 0 {
		return nil, fmt.Errorf("%s names no receiver: write webhooks: [{name: …, url: …, secret: {file: …}}]", file)
	}
	names := map[string]bool{}
	for i := range c.Receivers {
		r := &c.Receivers[i]
		if err := r.check(filepath.Dir(file)); err != nil {
			return nil, fmt.Errorf("%s: webhook %d (%s): %w", file, i+1, r.Name, err)
		}
		if names[r.Name] {
			return nil, fmt.Errorf("%s: two webhooks are named %s: how far each was told is kept by its name", file, r.Name)
		}
		names[r.Name] = true
	}
	return &c, nil
}

var receiverName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func (r *Receiver) check(dir string) error {
	if !receiverName.MatchString(r.Name) {
		return errors.New("a name is lower-case letters, digits and dashes, 63 at most")
	}
	for _, v := range append([]*Value{&r.URL, &r.Secret}, pointers(r.Headers)...) {
		if v.File != "" && v.Env != "" {
			return errors.New("write file or env, not both")
		}
	}
	for name := range r.Headers {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("%q is no name of a header", name)
		}
	}
	if r.Secret.Text != "" {
		return errors.New("write secret: {file: PATH} or secret: {env: NAME}: whoever may read this file must not be able to sign")
	}
	if _, err := r.address(); err != nil {
		return err
	}
	if _, err := r.secrets(); err != nil {
		return err
	}
	for _, kind := range r.Events {
		if !slices.ContainsFunc(Kinds(), func(k string) bool { return matches(kind, k) }) {
			return fmt.Errorf("event %q is not one of %s", kind, strings.Join(Kinds(), ", "))
		}
	}
	return r.checkFormat(dir)
}

func pointers(headers map[string]Value) []*Value {
	var out []*Value
	for _, v := range headers {
		out = append(out, &v)
	}
	return out
}

func (r *Receiver) checkFormat(dir string) error {
	if (r.Format == "template") != (r.Template != "") {
		return errors.New("format: template and template: FILE go together")
	}
	if r.Template != "" {
		file := r.Template
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if r.template, err = template.New(filepath.Base(file)).Funcs(functions).Parse(string(text)); err != nil {
			return err
		}
	}
	switch r.Format {
	case "":
		r.Format = "cloudevents"
	case "cloudevents", "slack", "tracker", "template":
	default:
		return fmt.Errorf("format %q is not one of cloudevents, slack, tracker, template", r.Format)
	}
	// A template that fails must not be found out in the night.
	_, _, err := r.body(Sample("/specproxy", time.Unix(0, 0).UTC()))
	return err
}

// address is the URL as it is now.
func (r Receiver) address() (string, error) {
	text, err := r.URL.read()
	if err != nil {
		return "", fmt.Errorf("its url cannot be read: %w", err)
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("its url is not http:// or https:// and a host") // which may be a secret
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", errors.New("its url is http:// beyond loopback: anybody on the way could read it and hold it back; write https://")
	}
	return text, nil
}

const (
	secretPrefix   = "whsec_"
	shortestSecret = 24
)

// secrets are the keys that sign, the newest first.
func (r Receiver) secrets() ([][]byte, error) {
	if !r.Secret.set() {
		if r.Format == "slack" {
			return nil, nil // it checks none: its URL is the secret
		}
		return nil, errors.New("it needs a secret: {file: PATH} or {env: NAME} that its messages are signed with")
	}
	text, err := r.Secret.read()
	if err != nil {
		return nil, fmt.Errorf("its secret cannot be read: %w", err)
	}
	var keys [][]byte
	for line := range strings.FieldsSeq(text) {
		key := []byte(line)
		if encoded, ok := strings.CutPrefix(line, secretPrefix); ok {
			if key, err = base64.StdEncoding.DecodeString(encoded); err != nil {
				return nil, errors.New("its secret is not base64 after whsec_")
			}
		}
		if len(key) < shortestSecret {
			return nil, fmt.Errorf("its secret has %d bytes, and at least %d are needed: openssl rand -base64 32", len(key), shortestSecret)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("its secret is empty")
	}
	return keys, nil
}

// wants says whether the receiver is told of messages of a kind about these specs.
func (r Receiver) wants(kind string, specs []string) bool {
	of := len(r.Specs) == 0 || kind == ChainHead || slices.ContainsFunc(specs, func(s string) bool { return slices.Contains(r.Specs, s) })
	if len(r.Events) == 0 {
		return of && kind != ChainHead
	}
	return of && slices.ContainsFunc(r.Events, func(p string) bool { return matches(p, kind) })
}

func matches(pattern, kind string) bool {
	ok, err := path.Match(pattern, kind)
	return err == nil && ok
}
