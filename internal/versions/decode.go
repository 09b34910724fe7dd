package versions

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// decoder fills a Go value from a YAML tree, stricter than the YAML library does: unknown and repeated fields, null, aliases and values of
// another kind are problems. It goes on after a problem, so that all of them are reported at once.
type decoder struct {
	problems []Problem
	// lines maps a field's path, such as inFlight.rules[1].else, to the line it is written on, for the checks that follow decoding.
	lines map[string]int
	// meant holds the paths of fields that an unknown one was probably meant to be: they are not missed a second time.
	meant map[string]bool
}

// parseYAML returns the root mapping of the one document in data.
func parseYAML(data []byte) (*yaml.Node, *Problem) {
	if len(data) > MaxManifestSize {
		return nil, &Problem{Message: fmt.Sprintf("the manifest has %d bytes: at most %d", len(data), MaxManifestSize)}
	}
	if !utf8.Valid(data) {
		return nil, &Problem{Line: invalidUTF8Line(data), Message: "the manifest is not UTF-8"}
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var root yaml.Node
	if err := d.Decode(&root); errors.Is(err, io.EOF) {
		return nil, &Problem{Message: "the manifest is empty"}
	} else if err != nil {
		return nil, syntaxProblem(err)
	}
	var second yaml.Node
	if err := d.Decode(&second); err == nil {
		return nil, &Problem{Line: second.Line, Message: "a second YAML document begins: a manifest is one"}
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxProblem(err)
	}
	if root.Kind != yaml.DocumentNode || len(root.Content) != 1 || root.Content[0].Kind != yaml.MappingNode {
		return nil, &Problem{Line: max(root.Line, 1), Message: "the manifest must be a mapping of fields, beginning with name: and version:"}
	}
	return root.Content[0], nil
}

var yamlLine = regexp.MustCompile(`(?s)^yaml: (?:line (\d+): )?(.*)$`)

// syntaxProblem takes the line out of the YAML library's error.
func syntaxProblem(err error) *Problem {
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		return &Problem{Message: "not YAML: " + err.Error()}
	}
	line, _ := strconv.Atoi(m[1])
	return &Problem{Line: line, Message: "not YAML: " + m[2]}
}

func invalidUTF8Line(data []byte) int {
	valid := 0
	for valid < len(data) {
		r, size := utf8.DecodeRune(data[valid:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		valid += size
	}
	return 1 + bytes.Count(data[:valid], []byte("\n"))
}

func (d *decoder) problem(n *yaml.Node, path, format string, args ...any) {
	d.problems = append(d.problems, Problem{Line: n.Line, Field: path, Message: fmt.Sprintf(format, args...)})
}

// decode fills v from n. path names n for people.
func (d *decoder) decode(n *yaml.Node, v reflect.Value, path string) {
	if path != "" {
		d.lines[path] = n.Line
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.problem(n, path, "YAML anchors and aliases are not used in manifests: write the value where it counts")
		return
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		d.problem(n, path, "has no value: give it one or leave the line out")
		return
	}
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		// The type brings its own text form, such as a duration.
		d.decodeText(n, text, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.decodeStruct(n, v, path)
	case reflect.Slice:
		d.decodeSlice(n, v, path)
	case reflect.Map:
		d.decodeMap(n, v, path)
	case reflect.String:
		switch {
		case n.Kind != yaml.ScalarNode:
			d.problem(n, path, "want text, not %s", kindOf(n))
		case n.ShortTag() != "!!str":
			d.problem(n, path, "want text, not %s: write it in quotes", kindOf(n))
		default:
			v.SetString(n.Value)
		}
	case reflect.Int:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" {
			d.problem(n, path, "want a whole number, not %s", kindOf(n))
		} else if err := n.Decode(v.Addr().Interface()); err != nil {
			d.problem(n, path, "%s is not a number that fits", n.Value)
		}
	case reflect.Float64:
		if tag := n.ShortTag(); n.Kind != yaml.ScalarNode || tag != "!!int" && tag != "!!float" {
			d.problem(n, path, "want a number, not %s", kindOf(n))
		} else if err := n.Decode(v.Addr().Interface()); err != nil || math.IsNaN(v.Float()) || math.IsInf(v.Float(), 0) {
			d.problem(n, path, "%s is not a number that can be used", n.Value)
		}
	case reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			d.problem(n, path, "want true or false, not %s", kindOf(n))
		} else if err := n.Decode(v.Addr().Interface()); err != nil {
			d.problem(n, path, "%s is neither true nor false", n.Value)
		}
	case reflect.Pointer: // what is not there is not the same as 0
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(n, v.Elem(), path)
	default:
		panic("versions: the manifest has a field of kind " + v.Kind().String() + ", which the decoder does not know")
	}
}

func (d *decoder) decodeText(n *yaml.Node, v encoding.TextUnmarshaler, path string) {
	if n.Kind != yaml.ScalarNode {
		d.problem(n, path, "want one value, not %s", kindOf(n))
		return
	}
	if err := v.UnmarshalText([]byte(n.Value)); err != nil {
		d.problem(n, path, "%s", err)
		return
	}
	if n.ShortTag() != "!!str" {
		d.problem(n, path, "want text, not %s: write it in quotes, or leave the line out", kindOf(n))
	}
}

func (d *decoder) decodeStruct(n *yaml.Node, v reflect.Value, path string) {
	fields := fieldsOf(v)
	d.eachPair(n, path, func(key *yaml.Node, value *yaml.Node) {
		field, ok := fields.byName[key.Value]
		if !ok {
			near := nearest(key.Value, fields.names)
			if near == "" {
				d.problem(key, path, "unknown field %q: known here are %s", key.Value, strings.Join(fields.names, ", "))
				return
			}
			d.meant[join(path, near)] = true
			d.problem(key, path, "unknown field %q: did you mean %q?", key.Value, near)
			return
		}
		at := join(path, key.Value)
		d.decode(value, field, at)
		// The line of the key is the one people look for when the value is a block.
		d.lines[at] = key.Line
	})
}

func (d *decoder) decodeSlice(n *yaml.Node, v reflect.Value, path string) {
	if _, ok := v.Interface().(interface{ OneOrMore() }); ok && n.Kind == yaml.ScalarNode {
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		d.decode(n, v.Index(0), path)
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.problem(n, path, "want a list, not %s", kindOf(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.decode(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

// decodeMap reads a mapping of text to text, the only kind of map a manifest has.
func (d *decoder) decodeMap(n *yaml.Node, v reflect.Value, path string) {
	v.Set(reflect.MakeMap(v.Type()))
	d.eachPair(n, path, func(key *yaml.Node, value *yaml.Node) {
		item := reflect.New(v.Type().Elem()).Elem()
		d.decode(value, item, join(path, key.Value))
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	})
}

// eachPair walks a mapping whose keys must be plain text and distinct.
func (d *decoder) eachPair(n *yaml.Node, path string, visit func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, "want a mapping of fields, not %s", kindOf(n))
		return
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Anchor != "" || key.ShortTag() != "!!str" {
			d.problem(key, path, "a field's name must be plain text")
			continue
		}
		if first, ok := seen[key.Value]; ok {
			d.problem(key, path, "field %q is set twice, first in line %d", key.Value, first)
			continue
		}
		seen[key.Value] = key.Line
		visit(key, value)
	}
}

// structFields are a struct's fields under the names they have in YAML, in the order of declaration, inlined structs included.
type structFields struct {
	names  []string
	byName map[string]reflect.Value
}

func fieldsOf(v reflect.Value) structFields {
	out := structFields{byName: make(map[string]reflect.Value)}
	out.collect(v)
	return out
}

func (f *structFields) collect(v reflect.Value) {
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if options == "inline" {
			f.collect(v.Field(i))
			continue
		}
		if name == "" || name == "-" {
			continue
		}
		f.names = append(f.names, name)
		f.byName[name] = v.Field(i)
	}
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!str":
		return fmt.Sprintf("the text %q", n.Value)
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return "the truth value " + n.Value
	case "!!timestamp":
		return "the date " + n.Value
	}
	return "a value of type " + n.ShortTag()
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
