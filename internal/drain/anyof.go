package drain

import (
	"encoding/json"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// AnyOf is a set of classes, written as one word or as a list. Empty matches every class.
type AnyOf []Effects

// Has says that the class is named.
func (a AnyOf) Has(class Effects) bool { return slices.Contains(a, class) }

// String writes "none" or "none|readonly".
func (a AnyOf) String() string {
	words := make([]string, len(a))
	for i, class := range a {
		words[i] = string(class)
	}
	return strings.Join(words, "|")
}

// OneOrMore marks a list that may be written as its only element.
func (a AnyOf) OneOrMore() {}

// MarshalJSON writes one class as a string, several as an array.
func (a AnyOf) MarshalJSON() ([]byte, error) {
	if len(a) == 1 {
		return json.Marshal(a[0])
	}
	return json.Marshal([]Effects(a))
}

// UnmarshalJSON reads either form.
func (a *AnyOf) UnmarshalJSON(data []byte) error {
	var one Effects
	if json.Unmarshal(data, &one) == nil && len(data) > 0 && data[0] == '"' {
		*a = AnyOf{one}
		return nil
	}
	return json.Unmarshal(data, (*[]Effects)(a))
}

// UnmarshalYAML reads either form.
func (a *AnyOf) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*a = AnyOf{Effects(n.Value)}
		return nil
	}
	return n.Decode((*[]Effects)(a))
}
