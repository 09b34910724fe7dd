package routing

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

const (
	// MaxHeaderTargets bounds those of one spec: each is in every route that is pushed, and looked at for every request.
	MaxHeaderTargets = 16
	// MaxHeaderValue bounds what a header is compared with, in bytes.
	MaxHeaderValue = 256
)

// HeaderTarget sends new executions that carry a header to one version, whatever the weights. Of several that match, the first counts.
type HeaderTarget struct {
	// Header is its name in lower case, Value what it must be, byte for byte.
	Header  string `json:"header"`
	Value   string `json:"value"`
	Version string `json:"version"`
	// Until is when it ends by itself; zero: never.
	Until  time.Time `json:"until,omitzero"`
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
}

// String is "x-tenant: acme → 2.1.0".
func (t HeaderTarget) String() string { return t.Header + ": " + t.Value + " → " + t.Version }

// Same says that both mean the same executions, version and end.
func (t HeaderTarget) Same(o HeaderTarget) bool {
	return t.Header == o.Header && t.Value == o.Value && t.Version == o.Version && t.Until.Equal(o.Until)
}

// CheckHeader refuses what no request can carry to the point where routes are chosen, or what could not be compared byte for byte.
func CheckHeader(name, value string) error {
	switch {
	case name != strings.ToLower(name) || !httpguts.ValidHeaderFieldName(name):
		return fmt.Errorf("%q is not the name of a header in lower case", name)
	case strings.HasPrefix(name, "x-spec-") || strings.HasPrefix(name, "x-envoy-"):
		return fmt.Errorf("header %s: what clients send as x-spec-* or x-envoy-* is dropped; choose another name", name)
	case name == "host":
		return fmt.Errorf("header host says which spec a request is for, not which version; choose another name")
	case value == "" || len(value) > MaxHeaderValue:
		return fmt.Errorf("header %s: a value has 1 to %d bytes, not %d", name, MaxHeaderValue, len(value))
	case strings.TrimSpace(value) != value || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Errorf("header %s: the value %q has spaces at its ends or characters that are not printable ASCII", name, value)
	}
	return nil
}

// Carries says that new executions come to the version: by weight, or by a header.
func (r Route) Carries(version string) bool { return r.Weight(version) > 0 || r.Targeted(version) }

// Targeted says that a header leads to the version.
func (r Route) Targeted(version string) bool {
	return slices.ContainsFunc(r.HeaderTargets, func(t HeaderTarget) bool { return t.Version == version })
}

// Carried are the versions that new executions come to: those with weight in the order of the splits, then those that only a header leads to.
func (r Route) Carried() []string {
	var out []string
	for _, s := range r.Splits {
		if s.BasisPoints > 0 {
			out = append(out, s.Version)
		}
	}
	for _, t := range r.HeaderTargets {
		if !slices.Contains(out, t.Version) {
			out = append(out, t.Version)
		}
	}
	return out
}

// Gains are the versions that new executions come to by this route and not, or less, by the one before: they have more weight, or a header leads
// to them that led nowhere or elsewhere.
func (r Route) Gains(before Route) []string {
	return slices.DeleteFunc(r.Carried(), func(version string) bool {
		more := slices.ContainsFunc(r.HeaderTargets, func(t HeaderTarget) bool {
			return t.Version == version && !slices.ContainsFunc(before.HeaderTargets, func(o HeaderTarget) bool {
				return o.Header == t.Header && o.Value == t.Value && o.Version == version
			})
		})
		return !more && r.Weight(version) <= before.Weight(version)
	})
}

// WithoutTargets are the header targets but for those that lead to one of the versions.
func WithoutTargets(targets []HeaderTarget, versions ...string) []HeaderTarget {
	return slices.DeleteFunc(slices.Clone(targets), func(t HeaderTarget) bool { return slices.Contains(versions, t.Version) })
}

// Retarget puts targets in place of those with the same header and value, and adds the others.
func Retarget(targets, more []HeaderTarget) ([]HeaderTarget, error) {
	out := slices.Clone(targets)
	for _, t := range more {
		if err := CheckHeader(t.Header, t.Value); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(out, func(o HeaderTarget) bool { return o.Header == t.Header && o.Value == t.Value })
		switch {
		case i < 0:
			out = append(out, t)
		case !out[i].Same(t):
			out[i] = t
		}
	}
	if len(out) > MaxHeaderTargets {
		return nil, fmt.Errorf("%d header targets are too many: a spec has at most %d", len(out), MaxHeaderTargets)
	}
	return out, nil
}

// SameTargets says that two lists lead the same executions to the same versions.
func SameTargets(a, b []HeaderTarget) bool { return slices.EqualFunc(a, b, HeaderTarget.Same) }
