package yamlerr_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/specproxy/specproxy/internal/yamlerr"
)

func TestNoTypeOfOursIsNamed(t *testing.T) {
	var into struct {
		Name  string        `yaml:"name"`
		Steps []int         `yaml:"steps"`
		After time.Duration `yaml:"after"`
	}
	for text, want := range map[string]string{
		"nam: x":                     "line 1: there is no field nam",
		"name: x\nsteps: [a]":        "line 2: what stands there is a str `a`, and something else belongs there",
		"nam: x\nafter: [1, 2]":      "line 1: there is no field nam; line 2: what stands there is a seq, and",
		"name: [x":                   "line 1: did not find expected ',' or ']'",
		"name: x\nname: y\n":         `line 2: mapping key "name" already defined at line 1`,
		"steps: {a: b}\nafter: soon": "line 1: ",
	} {
		d := yaml.NewDecoder(strings.NewReader(text))
		d.KnownFields(true)
		err := yamlerr.Plain(d.Decode(&into))
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "struct") || strings.Contains(err.Error(), "yaml") || strings.Contains(err.Error(), "time.") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if err := yamlerr.Plain(io.EOF); !errors.Is(err, io.EOF) || yamlerr.Plain(nil) != nil {
		t.Errorf("%v", err)
	}
}
