package specdiff

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/versions"
)

// Topic is what a point is about.
type Topic string

// Topics, in the order in which a summary tells them.
const (
	Contract  Topic = "contract"
	Limits    Topic = "limits"
	Tools     Topic = "tools"
	Runtime   Topic = "runtime"
	Settings  Topic = "settings"
	Documents Topic = "documents"
	Lineage   Topic = "lineage"
)

// Point is one sentence of the summary.
type Point struct {
	Topic Topic  `json:"topic"`
	Text  string `json:"text"`
}

// summarize says in plain words what changed.
func (d Diff) summarize(from, to versions.Packed) []Point {
	points := []Point{}
	say := func(topic Topic, format string, args ...any) {
		points = append(points, Point{Topic: topic, Text: fmt.Sprintf(format, args...)})
	}
	a, b := from.Manifest, to.Manifest
	contract(a.InFlight, b.InFlight, say)
	request(a, b, say)
	for _, document := range d.Documents {
		if document.Path != versions.ManifestPath && document.Status == Changed {
			before, _ := from.File(document.Path)
			after, _ := to.File(document.Path)
			values(document.Path, before, after, say)
		}
	}
	compareMaps(a.Runtime.Tools, b.Runtime.Tools, func(tool, was, now string) { say(Tools, "%s", changed(tool, was, now)) })
	for _, r := range []struct{ what, was, now string }{
		{"model", a.Runtime.Model, b.Runtime.Model}, {"image", a.Runtime.Image, b.Runtime.Image}, {"binary", a.Runtime.Binary, b.Runtime.Binary},
	} {
		if r.was != r.now {
			say(Runtime, "%s", changed(r.what, r.was, r.now))
		}
	}
	if !slices.Equal(a.Hosts, b.Hosts) {
		say(Settings, "clients reach it under %s instead of %s", strings.Join(b.Hosts, ", "), strings.Join(a.Hosts, ", "))
	}
	for _, document := range d.Documents {
		if document.Path != versions.ManifestPath {
			say(Documents, "%s", document.words())
		}
	}
	if b.Fixes != "" && a.Fixes != b.Fixes {
		say(Lineage, "%s answers %s", to.Ref(), b.Fixes)
	}
	if slices.Contains(b.Parents, a.Version) && a.Name == b.Name {
		say(Lineage, "%s was derived from %s", b.Version, a.Version)
	}
	order := []Topic{Contract, Limits, Tools, Runtime, Settings, Documents, Lineage}
	slices.SortStableFunc(points, func(a, b Point) int { return slices.Index(order, a.Topic) - slices.Index(order, b.Topic) })
	return points
}

func changed(what, was, now string) string {
	switch {
	case was == "":
		return fmt.Sprintf("%s is now demanded: %s", what, now)
	case now == "":
		return fmt.Sprintf("%s is no longer demanded (was %s)", what, was)
	}
	return fmt.Sprintf("%s %s instead of %s", what, now, was)
}

func (d Document) words() string {
	switch {
	case d.Status == Added:
		return d.Path + " is new"
	case d.Status == Removed:
		return d.Path + " is gone"
	case d.Opaque != "":
		return d.Path + " changed (" + d.Opaque + ")"
	}
	lines := "lines"
	if d.Added == 1 {
		lines = "line"
	}
	return fmt.Sprintf("%s: %d %s added, %d removed", d.Path, d.Added, lines, d.Removed)
}

// contract compares what the two say in words, line by line: a rule that only moved shows, since the first match wins.
func contract(a, b drain.Contract, say func(Topic, string, ...any)) {
	before, after := drain.Explain(a), drain.Explain(b)
	for _, line := range before {
		if !slices.Contains(after, line) {
			say(Contract, "no longer: %s", line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			say(Contract, "now: %s", line)
		}
	}
}

func request(a, b versions.Manifest, say func(Topic, string, ...any)) {
	if was, now := a.Request.BodyBuffer, b.Request.BodyBuffer; was != now {
		say(Limits, "requests up to %d bytes can be handed over, %s", now, moved(strconv.Itoa(was), strconv.Itoa(now)))
	}
	if before, after := strings.Join(a.Capture.Words(), "; "), strings.Join(b.Capture.Words(), "; "); before != after {
		say(Settings, "%s", changed("capture", before, after))
	}
	if a.Shadow != b.Shadow {
		say(Settings, "%s", changed("shadow", a.Shadow, b.Shadow))
	}
	if was, now := a.Bake, b.Bake; was != now {
		say(Limits, "it must hold all the traffic for %s to be good, not %s", now, was)
	}
}

// moved says in which direction a number went.
func moved(was, now string) string {
	x, errX := strconv.ParseFloat(was, 64)
	y, errY := strconv.ParseFloat(now, 64)
	switch {
	case errX != nil || errY != nil:
		return "changed from " + was
	case y > x:
		return "raised from " + was
	case y < x:
		return "lowered from " + was
	}
	return "written differently from " + was
}

// Bounds on documents that are read as data.
const (
	maxData   = 256 << 10
	maxValues = 5_000
	maxDepth  = 50
	// maxTold bounds the sentences about one document.
	maxTold = 20
)

// values compares two documents that hold data, value by value. What is not data is left to the unified text.
func values(name string, before, after []byte, say func(Topic, string, ...any)) {
	switch strings.ToLower(path.Ext(name)) {
	case ".yaml", ".yml", ".json":
	default:
		return
	}
	a, okA := data(before)
	b, okB := data(after)
	if !okA || !okB {
		return
	}
	told := 0
	compareMaps(a, b, func(key, was, now string) {
		told++
		if told > maxTold {
			return
		}
		topic := Settings
		if isNumber(was) || isNumber(now) {
			topic = Limits
		}
		switch {
		case was == "":
			say(topic, "%s: %s is now set: %s", name, key, now)
		case now == "":
			say(topic, "%s: %s is no longer set (was %s)", name, key, was)
		default:
			say(topic, "%s: %s is %s, %s", name, key, now, moved(was, now))
		}
	})
	if told > maxTold {
		say(Settings, "%s: and %d more values", name, told-maxTold)
	}
}

func isNumber(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	return err == nil
}

// data reads the scalars of a YAML or JSON document by their paths. Aliases are not followed: they could blow a small file up.
func data(source []byte) (map[string]string, bool) {
	if len(source) > maxData {
		return nil, false
	}
	var root yaml.Node
	if err := yaml.Unmarshal(source, &root); err != nil {
		return nil, false
	}
	out := map[string]string{}
	return out, scalars("", &root, 0, out)
}

func scalars(at string, n *yaml.Node, depth int, out map[string]string) bool {
	if depth > maxDepth || len(out) > maxValues {
		return false
	}
	switch n.Kind {
	case yaml.DocumentNode:
		for _, child := range n.Content {
			if !scalars(at, child, depth+1, out) {
				return false
			}
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !scalars(strings.TrimPrefix(at+"."+n.Content[i].Value, "."), n.Content[i+1], depth+1, out) {
				return false
			}
		}
	case yaml.SequenceNode:
		for i, child := range n.Content {
			if !scalars(fmt.Sprintf("%s[%d]", at, i), child, depth+1, out) {
				return false
			}
		}
	case yaml.ScalarNode:
		if _, twice := out[at]; twice {
			return false
		}
		out[at] = n.Value
		if n.Value == "" {
			out[at] = `""`
		}
	case yaml.AliasNode:
		out[at] = "*" + n.Value
	}
	return true
}

func compareMaps(a, b map[string]string, differs func(key, was, now string)) {
	for _, key := range slices.Sorted(maps.Keys(union(a, b))) {
		if a[key] != b[key] {
			differs(key, a[key], b[key])
		}
	}
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, b)
	return all
}
