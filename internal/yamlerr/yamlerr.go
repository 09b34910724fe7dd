// Package yamlerr puts what the YAML library says of a file in words for who wrote the file.
package yamlerr

import (
	"errors"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

var (
	unknown = regexp.MustCompile(`field (\S+) not found in type .+`)
	wrong   = regexp.MustCompile("cannot unmarshal !!(\\S+)( `.*`)? into .+")
)

// Plain names fields and lines, and no type of this program. An error that is none of the library's stays as it is.
func Plain(err error) error {
	var all *yaml.TypeError
	if !errors.As(err, &all) {
		if err != nil && strings.HasPrefix(err.Error(), "yaml: ") {
			return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
		}
		return err
	}
	said := make([]string, len(all.Errors))
	for i, e := range all.Errors {
		e = unknown.ReplaceAllString(e, "there is no field $1")
		said[i] = wrong.ReplaceAllString(e, "what stands there is a $1$2, and something else belongs there")
	}
	return errors.New(strings.Join(said, "; "))
}
