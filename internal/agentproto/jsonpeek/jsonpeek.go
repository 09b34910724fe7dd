// Package jsonpeek reads strings out of the beginning of a JSON document, whose end may be missing.
//
// Invariants: it allocates in proportion to the bytes it is given and recurses only along the paths it is asked for; what it cannot read it
// leaves out. The package is pure.
package jsonpeek

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
)

// Found are the strings of one object, by path. A key that occurs twice has two values: parsers differ in which of them counts.
type Found map[string][]string

// Objects looks for paths such as "params.name" in the object that data begins with, or in every object of the array that it begins with. data
// may end anywhere; an object that is cut off comes last, with what was found in it.
func Objects(data []byte, paths ...string) []Found {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // a number that fits nowhere is no reason to stop
	first, err := d.Token()
	if err != nil {
		return nil
	}
	if first != json.Delim('[') {
		if first != json.Delim('{') {
			return nil
		}
		found := Found{}
		_ = object(d, "", paths, found) // what was found before the end is found
		return []Found{found}
	}
	var all []Found
	for d.More() {
		next, err := d.Token()
		if err != nil {
			return all
		}
		if next != json.Delim('{') {
			if skip(d, next) != nil {
				return all
			}
			continue
		}
		found := Found{}
		err = object(d, "", paths, found)
		all = append(all, found)
		if err != nil {
			return all
		}
	}
	return all
}

// object reads the members of an object whose brace has been read.
func object(d *json.Decoder, at string, paths []string, found Found) error {
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		name, ok := key.(string)
		if !ok {
			return io.ErrUnexpectedEOF
		}
		path := name
		if at != "" {
			path = at + "." + name
		}
		value, err := d.Token()
		if err != nil {
			return err
		}
		switch text, isText := value.(string); {
		case isText && slices.Contains(paths, path):
			found[path] = append(found[path], text)
		case value == json.Delim('{') && leads(path, paths):
			err = object(d, path, paths, found)
		default:
			err = skip(d, value)
		}
		if err != nil {
			return err
		}
	}
	_, err := d.Token() // the closing brace
	return err
}

// leads says that a path goes on below.
func leads(path string, paths []string) bool {
	return slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(p, path+".") })
}

// skip reads the rest of a value whose first token has been read.
func skip(d *json.Decoder, first json.Token) error {
	depth := 0
	for token := first; ; {
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
		next, err := d.Token()
		if err != nil {
			return err
		}
		token = next
	}
}
