package versions

import _ "embed" // for the schema

//go:embed manifest.schema.json
var schema string

// Schema is the JSON Schema (draft 2020-12) of spec.yaml, for editors and for checks outside of specproxy. It says what a schema can say;
// ParseManifest refuses more: repeated fields, rules that can never match, documents that no file system could hold side by side.
func Schema() string { return schema }
