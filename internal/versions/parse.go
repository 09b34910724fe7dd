package versions

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/rollout"
)

// SmallestInFlight is the smallest valid inFlight section, shown to whoever left it out.
const SmallestInFlight = `inFlight:
  default: {onRollback: complete, within: 2m, then: cancel}
`

// ParseManifest reads spec.yaml, strictly, and fills the defaults in. Every problem that can be told is in the one error, a
// *ManifestError, with its line; the manifest is then zero.
//
// A stored version is parsed again wherever it is used, so what this accepts today it must accept for ever.
func ParseManifest(data []byte) (Manifest, error) {
	root, problem := parseYAML(data)
	if problem != nil {
		return Manifest{}, manifestError([]Problem{*problem})
	}
	m := Manifest{
		Request: Request{BodyBuffer: DefaultBodyBuffer},
		Bake:    Duration(DefaultBake),
	}
	d := &decoder{lines: make(map[string]int), meant: make(map[string]bool)}
	d.decode(root, reflect.ValueOf(&m).Elem(), "")

	c := &checker{lines: d.lines, meant: d.meant, problems: d.problems}
	c.check(m)
	if err := manifestError(c.problems); err != nil {
		return Manifest{}, err
	}
	if len(m.Hosts) == 0 {
		m.Hosts = []string{DefaultHost(m.Name)}
	}
	return m, nil
}

// DefaultHost is the host name of a spec whose manifest names none.
func DefaultHost(name string) string { return name + ".agents" }

// checker looks at a decoded manifest for what its fields must hold.
type checker struct {
	lines    map[string]int
	meant    map[string]bool
	problems []Problem
}

// set says that the manifest has the field, whether its value could be decoded or not.
func (c *checker) set(field string) bool { return c.lines[field] > 0 }

// missing says that neither the field nor a misspelling of it is there.
func (c *checker) missing(field string) bool { return !c.set(field) && !c.meant[field] }

// broken says that decoding already complained of the field; it is not complained of twice.
func (c *checker) broken(field string) bool {
	return slices.ContainsFunc(c.problems, func(p Problem) bool { return p.Field == field })
}

func (c *checker) problem(field, format string, args ...any) {
	c.problems = append(c.problems, Problem{Line: c.lines[field], Field: field, Message: fmt.Sprintf(format, args...)})
}

// field reports err, if any, as a problem of a field that is present and was decoded.
func (c *checker) field(name string, check func() error) {
	if !c.set(name) || c.broken(name) {
		return
	}
	if err := check(); err != nil {
		c.problem(name, "%s", err)
	}
}

func (c *checker) check(m Manifest) {
	for _, name := range []string{"name", "version"} {
		if c.missing(name) {
			c.problem("", "%s is missing: a manifest begins with the spec's name and the version, such as\nname: customer-service\nversion: 2.0.3", name)
		}
	}
	c.field("name", func() error { return CheckName(m.Name) })
	c.field("version", func() error { return CheckVersion(m.Version) })
	c.checkHosts(m)
	c.checkDocuments(m)
	c.checkHistory(m)
	c.checkRuntime(m.Runtime)
	c.field("request.bodyBuffer", func() error {
		if n := m.Request.BodyBuffer; n < 1 || n > MaxBodyBuffer {
			return fmt.Errorf("%d: between 1 and %d bytes (64 MiB)", n, MaxBodyBuffer)
		}
		return nil
	})
	c.field("bake", func() error {
		if m.Bake <= 0 {
			return fmt.Errorf("must be longer than nothing, such as 1h")
		}
		return nil
	})
	c.field("shadow", func() error {
		if m.Shadow != ShadowSafe {
			return fmt.Errorf("%q: say %s, or leave it out", m.Shadow, ShadowSafe)
		}
		return nil
	})
	c.checkRollout(m)
	c.checkSegments(m)
	c.checkCapture(m)
	c.checkContract(m)
}

func (c *checker) checkCapture(m Manifest) {
	if !c.set("capture") || slices.ContainsFunc(c.problems, func(p Problem) bool { return within(p.Field, "capture") }) {
		return
	}
	m.Capture.Check(func(field, message string) {
		field = "capture" + field
		c.problems = append(c.problems, Problem{Line: c.nearestLine(field), Field: field, Message: message})
	})
}

func (c *checker) checkSegments(m Manifest) {
	if !c.set("segments") || slices.ContainsFunc(c.problems, func(p Problem) bool { return within(p.Field, "segments") }) {
		return
	}
	drain.CheckSegments(m.Segments, func(field, message string) {
		field = "segments" + field
		c.problems = append(c.problems, Problem{Line: c.nearestLine(field), Field: field, Message: message})
	})
	for i := range m.Segments {
		if field := index("segments", i) + ".header"; c.set(field) && m.Segments[i].Header == "" {
			c.problem(field, "is empty: leave the line out to count by path")
		}
	}
}

func (c *checker) checkRollout(m Manifest) {
	if !c.set("rollout") || slices.ContainsFunc(c.problems, func(p Problem) bool { return within(p.Field, "rollout") }) {
		return
	}
	for name, value := range map[string]string{"preset": m.Rollout.Preset, "rollback": string(m.Rollout.Rollback), "onInsufficient": m.Rollout.OnInsufficient} {
		c.field("rollout."+name, func() error { return notEmpty(value) })
	}
	if c.set("rollout.outcomes") && len(m.Rollout.Outcomes) == 0 {
		c.problem("rollout.outcomes", "is empty: leave the line out for all of them")
	}
	if !m.Rollout.Declared() {
		c.problem("rollout", "says nothing: name a preset (%s) or steps, or leave it out", strings.Join(rollout.Presets(), ", "))
		return
	}
	for _, p := range m.Rollout.Problems() {
		field := join("rollout", p.Field)
		c.problems = append(c.problems, Problem{Line: c.nearestLine(field), Field: field, Message: p.Message})
	}
}

func (c *checker) checkHosts(m Manifest) {
	if len(m.Hosts) > MaxHosts {
		c.problem("hosts", "lists %d hosts: at most %d", len(m.Hosts), MaxHosts)
		return
	}
	for i, host := range m.Hosts {
		c.field(index("hosts", i), func() error {
			if err := checkHost(host); err != nil {
				return err
			}
			if slices.Index(m.Hosts, host) < i {
				return fmt.Errorf("%q is listed twice", host)
			}
			return nil
		})
	}
}

func (c *checker) checkDocuments(m Manifest) {
	sound := true
	for i, p := range m.Documents {
		c.field(index("documents", i), func() error { return checkDocument(p) })
		sound = sound && !c.broken(index("documents", i))
	}
	if sound {
		checkDocuments(m.Documents, func(i int, message string) { c.problem(index("documents", i), "%s", message) })
	}
}

func (c *checker) checkHistory(m Manifest) {
	for i, parent := range m.Parents {
		c.field(index("parents", i), func() error {
			switch {
			case CheckVersion(parent) != nil:
				return CheckVersion(parent)
			case parent == m.Version:
				return fmt.Errorf("%s cannot be its own parent", parent)
			case slices.Index(m.Parents, parent) < i:
				return fmt.Errorf("%s is listed twice", parent)
			}
			return nil
		})
	}
	c.field("fixes", func() error {
		if !fixesPattern.MatchString(m.Fixes) {
			return fmt.Errorf("%q is not the number of a post-mortem, such as PM-1", m.Fixes)
		}
		return nil
	})
}

func (c *checker) checkRuntime(r Runtime) {
	c.field("runtime.image", func() error { return checkDigest(r.Image) })
	c.field("runtime.binary", func() error { return checkDigest(r.Binary) })
	c.field("runtime.model", func() error { return notEmpty(r.Model) })
	for _, tool := range slices.Sorted(maps.Keys(r.Tools)) {
		c.field("runtime.tools."+tool, func() error { return notEmpty(r.Tools[tool]) })
	}
}

func checkDigest(digest string) error {
	if !digestPattern.MatchString(digest) {
		return fmt.Errorf("%q is not a digest: write sha256: and 64 digits of lower-case hexadecimal", digest)
	}
	return nil
}

func notEmpty(s string) error {
	if s == "" {
		return fmt.Errorf("is empty: leave the line out to demand nothing")
	}
	return nil
}

func (c *checker) checkContract(m Manifest) {
	if c.missing("inFlight") {
		c.problem("", "inFlight is missing: every version says, before it is deployed, what happens to its running executions when it is rolled back; "+
			"nobody has the time to decide that during a rollback. The smallest valid section is\n%s", strings.TrimSuffix(SmallestInFlight, "\n"))
		return
	}
	if n := len(m.InFlight.Declared); n > MaxRules {
		c.problem("inFlight.declared", "lists %d declarations: at most %d", n, MaxRules)
		return
	}
	if n := len(m.InFlight.Rules); n > MaxRules {
		c.problem("inFlight.rules", "lists %d rules: at most %d", n, MaxRules)
		return
	}
	// A contract that could not be read whole would be blamed for what it does not lack.
	if !c.set("inFlight") || slices.ContainsFunc(c.problems, func(p Problem) bool { return within(p.Field, "inFlight") }) {
		return
	}
	for _, err := range m.InFlight.Validate() {
		field, message, ok := strings.Cut(err.Error(), ": ")
		if !ok || !within(field, "inFlight") {
			field, message = "inFlight", err.Error()
		}
		c.problems = append(c.problems, Problem{Line: c.nearestLine(field), Field: field, Message: message})
	}
}

// nearestLine is the line of the field or, where that is missing, of what it should be in.
func (c *checker) nearestLine(field string) int {
	for field != "" {
		if line := c.lines[field]; line > 0 {
			return line
		}
		field = field[:max(strings.LastIndexAny(field, ".["), 0)]
	}
	return 0
}

// within says that a field is the one named or lies in it.
func within(field, outer string) bool {
	rest, ok := strings.CutPrefix(field, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func index(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }
