package jsonpeek_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/agentproto/jsonpeek"
)

func TestObjects(t *testing.T) {
	type found = jsonpeek.Found
	for _, c := range []struct {
		data string
		want []found
	}{
		{`{"method":"m","params":{"name":"n"}}`, []found{{"method": {"m"}, "params.name": {"n"}}}},
		{`{"params":{"arguments":{"name":"x","method":["y"]},"name":"n"},"method":"m"}`, []found{{"method": {"m"}, "params.name": {"n"}}}},
		// Of a key that comes twice both values count.
		{`{"method":"a","method":"b"}`, []found{{"method": {"a", "b"}}}},
		// What is not a string, or not an object on the way, is nothing.
		{`{"method":1,"params":["name"]}`, []found{{}}},
		{`{"params.name":"n"}`, []found{{"params.name": {"n"}}}},
		// A batch, with things in it that are no requests.
		{`[1,[{"method":"no"}],{"method":"a"},{"method":"b"}]`, []found{{"method": {"a"}}, {"method": {"b"}}}},
		{`{"x":1e99999,"method":"m"}`, []found{{"method": {"m"}}}},
		// The end is missing.
		{`{"method":"m","params":{"name":"n","arguments":{"big":"aaaaa`, []found{{"method": {"m"}, "params.name": {"n"}}}},
		{`{"method":"m","params":{"na`, []found{{"method": {"m"}}}},
		{`[{"method":"a"},{"meth`, []found{{"method": {"a"}}, {}}},
		{``, nil}, {`"text"`, nil}, {`nonsense`, nil}, {`{`, []found{{}}}, {`}`, nil},
	} {
		if got := jsonpeek.Objects([]byte(c.data), "method", "params.name"); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s\n got %v\nwant %v", c.data, got, c.want)
		}
	}
}

// Nesting costs no stack.
func TestDeepNesting(t *testing.T) {
	deep := `{"x":` + strings.Repeat("[", 1<<16) + strings.Repeat("]", 1<<16) + `,"method":"m"}`
	if got := jsonpeek.Objects([]byte(deep), "method"); len(got) != 1 {
		t.Errorf("got %v", got)
	}
}

// On whole documents it sees what the JSON library sees.
func FuzzObjects(f *testing.F) {
	for _, seed := range []string{`{"method":"m","params":{"name":"n"}}`, `[{"method":"a"}]`, `{"params":{"name":"\u00e9"}}`, `{"a":[{"b":1e9}],"method":null}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := jsonpeek.Objects(data, "method", "params.name")
		var doc struct {
			Method any `json:"method"`
		}
		if json.Unmarshal(data, &doc) != nil || len(got) != 1 {
			return
		}
		var keys map[string]json.RawMessage
		if json.Unmarshal(data, &keys) != nil || keys["method"] == nil {
			return
		}
		var method string
		if json.Unmarshal(keys["method"], &method) != nil || string(keys["method"]) == "null" {
			return
		}
		if all := got[0]["method"]; len(all) == 0 || all[len(all)-1] != method {
			t.Errorf("%q: method %q, found %q", data, method, all)
		}
	})
}
