// Package specdiff says what changed between two versions of a spec: field by field, document by document, and in plain words.
//
// Invariants: the result is a pure function of the two versions' bytes; a version against itself has no change, and every change of a byte
// shows in Documents. Text of documents is quoted as it is: who prints it to a terminal cleans it. The package is pure.
package specdiff

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/specproxy/specproxy/internal/versions"
)

// Diff is what changed from one version to another.
type Diff struct {
	From Side `json:"from"`
	To   Side `json:"to"`
	// Summary says the same in plain words, what matters most first.
	Summary []Point `json:"summary"`
	// Fields of the manifest as it is understood, defaults included, by path.
	Fields []Field `json:"fields"`
	// Documents that differ, spec.yaml first, then by path.
	Documents []Document `json:"documents"`
}

// Side is one of the two.
type Side struct {
	Spec    string `json:"spec"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
}

// Field is one value of the manifest, as JSON; empty where there is none.
type Field struct {
	Path   string `json:"path"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Status of a document.
type Status string

// What can have become of a document.
const (
	Added   Status = "added"
	Removed Status = "removed"
	Changed Status = "changed"
)

// Document is one file that differs.
type Document struct {
	Path   string `json:"path"`
	Status Status `json:"status"`
	// Before and After are digests; empty where there is no file.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Added and Removed count lines.
	Added   int `json:"linesAdded"`
	Removed int `json:"linesRemoved"`
	// Unified is the change as a unified diff, without the line "diff a b". Empty with Opaque.
	Unified string `json:"unified,omitempty"`
	// Opaque says why no text is shown.
	Opaque string `json:"opaque,omitempty"`
}

// maxText bounds what is compared line by line.
const maxText = 1 << 20

// Compare says what changed from one version to another. They may be of different specs.
func Compare(from, to versions.Packed) Diff {
	d := Diff{From: side(from), To: side(to), Fields: fields(from.Manifest, to.Manifest), Documents: []Document{}}
	for _, path := range paths(from, to) {
		before, had := from.File(path)
		after, has := to.File(path)
		if had && has && bytes.Equal(before, after) {
			continue
		}
		d.Documents = append(d.Documents, document(path, before, had, after, has))
	}
	d.Summary = d.summarize(from, to)
	return d
}

// Same says that the two are the same version, byte for byte.
func (d Diff) Same() bool { return d.From.Digest == d.To.Digest }

func side(p versions.Packed) Side {
	return Side{Spec: p.Manifest.Name, Version: p.Manifest.Version, Digest: p.Digest}
}

// paths of both, the manifest first.
func paths(a, b versions.Packed) []string {
	var all []string
	for _, blob := range slices.Concat(a.Blobs, b.Blobs) {
		all = append(all, blob.Path)
	}
	slices.SortFunc(all, func(a, b string) int {
		if (a == versions.ManifestPath) != (b == versions.ManifestPath) {
			if a == versions.ManifestPath {
				return -1
			}
			return 1
		}
		return cmp.Compare(a, b)
	})
	return slices.Compact(all)
}

func document(path string, before []byte, had bool, after []byte, has bool) Document {
	d := Document{Path: path, Status: Changed}
	if had {
		d.Before = versions.DigestOf(before)
	} else {
		d.Status = Added
	}
	if has {
		d.After = versions.DigestOf(after)
	} else {
		d.Status = Removed
	}
	switch {
	case len(before) > maxText || len(after) > maxText:
		d.Opaque = fmt.Sprintf("larger than %d MiB", maxText>>20)
	case !text(before) || !text(after):
		d.Opaque = "not text"
	default:
		d.unify(before, had, after, has)
	}
	return d
}

func text(data []byte) bool { return utf8.Valid(data) && !bytes.ContainsRune(data, 0) }

func (d *Document) unify(before []byte, had bool, after []byte, has bool) {
	name := func(prefix string, there bool) string {
		if !there {
			return "/dev/null"
		}
		return prefix + d.Path
	}
	full := string(diff.Diff(name("a/", had), before, name("b/", has), after))
	_, d.Unified, _ = strings.Cut(full, "\n")
	// The two lines after it name the files.
	for i, line := range strings.Split(d.Unified, "\n") {
		switch {
		case i < 2:
		case strings.HasPrefix(line, "+"):
			d.Added++
		case strings.HasPrefix(line, "-"):
			d.Removed++
		}
	}
}

// fields compares the manifests value by value.
func fields(a, b versions.Manifest) []Field {
	before, after := flatten(a), flatten(b)
	out := []Field{}
	for path, was := range before {
		if now := after[path]; now != was {
			out = append(out, Field{Path: path, Before: was, After: now})
		}
	}
	for path, now := range after {
		if _, known := before[path]; !known {
			out = append(out, Field{Path: path, After: now})
		}
	}
	slices.SortFunc(out, func(a, b Field) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

// flatten gives every value of a manifest its path: inFlight.rules[1].when.effects.
func flatten(m versions.Manifest) map[string]string {
	out := map[string]string{}
	data, err := json.Marshal(m)
	if err != nil {
		return out // a manifest was read from text and can be written as such
	}
	var tree any
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(&tree); err != nil {
		return out
	}
	walk("", tree, out)
	return out
}

func walk(path string, tree any, out map[string]string) {
	switch t := tree.(type) {
	case map[string]any:
		for key, value := range t {
			walk(strings.TrimPrefix(path+"."+key, "."), value, out)
		}
	case []any:
		for i, value := range t {
			walk(path+"["+strconv.Itoa(i)+"]", value, out)
		}
	case string:
		out[path] = t
	case nil:
	default:
		out[path] = fmt.Sprint(t)
	}
}
