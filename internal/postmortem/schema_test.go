package postmortem_test

import (
	"bytes"
	"encoding"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/specproxy/specproxy/internal/postmortem"
)

var update = flag.Bool("update", false, "write record.schema.json anew from the types")

// schemaOf is the JSON schema of a type as encoding/json writes it. Fields that it may leave out are not required.
func schemaOf(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t.Implements(reflect.TypeFor[json.Marshaler]()):
		return map[string]any{}
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return map[string]any{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Float64, reflect.Float32:
		return map[string]any{"type": "number"}
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return map[string]any{"type": "string", "contentEncoding": "base64"}
		}
		return map[string]any{"type": []string{"array", "null"}, "items": schemaOf(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object"}
	case reflect.Struct:
		properties, required := map[string]any{}, []string{}
		fields(t, properties, &required)
		slices.Sort(required)
		return map[string]any{"type": "object", "properties": properties, "required": required}
	case reflect.Interface:
		return map[string]any{}
	default:
		return map[string]any{"type": "integer"}
	}
}

func fields(t reflect.Type, properties map[string]any, required *[]string) {
	for f := range t.Fields() {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && tag == "":
			fields(f.Type, properties, required)
		case f.IsExported() && tag != "-":
			if tag == "" {
				tag = f.Name
			}
			properties[tag] = schemaOf(f.Type)
			if !strings.Contains(options, "omit") {
				*required = append(*required, tag)
			}
		}
	}
}

// TestSchemaIsWhatTheTypesSay keeps the published schema and the types together: go test ./internal/postmortem -run Schema -update.
func TestSchemaIsWhatTheTypesSay(t *testing.T) {
	schema := schemaOf(reflect.TypeFor[postmortem.Document]())
	schema["$schema"], schema["$id"] = "https://json-schema.org/draft/2020-12/schema", postmortem.SchemaID
	schema["title"] = "An exported post-mortem"
	schema["description"] = "record: what its events say. derived: what follows from its evidence, and the points of its charts. head: the newest link of the chain when it was exported. What is absent was not observed."
	want, err := json.MarshalIndent(schema, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile("record.schema.json", want, 0o644); err != nil { //nolint:gosec // a source file
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile("record.schema.json"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("record.schema.json is not what the types say (%v): run this test with -update", err)
	}
}

// TestExportsFollowThePublishedSchema checks the worked example's record and one that is made here.
func TestExportsFollowThePublishedSchema(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("record.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{filepath.Join("..", "..", "docs", "examples", "PM-1.json"), exported(t, 4) + ".json"} {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(document); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
