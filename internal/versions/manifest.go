// Package versions knows what a spec version is: its name, its manifest, the documents it carries and the digest that is its identity.
//
// Invariants: a version is immutable, its digest is a pure function of its bytes, and its standing changes only along one table.
// The package is pure: no clock, no goroutines, and no files but those of an fs.FS it is given.
package versions

import (
	"time"

	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/rollout"
)

// Manifest is the content of spec.yaml. ParseManifest checks every field and fills the defaults in, so that whoever holds a Manifest need
// not do either. manifest.schema.json says the same for editors.
type Manifest struct {
	// Name of the spec: a DNS label, [a-z0-9]([-a-z0-9]*[a-z0-9])?, at most 63 characters.
	Name string `json:"name" yaml:"name"`
	// Version is strict semantic versioning 2.0.0, without a leading "v" and without build metadata.
	Version     string `json:"version" yaml:"version"`
	Description string `json:"description,omitempty" yaml:"description,omitempty"`
	// Hosts are the names (:authority, without port, lower case) that clients use, at most MaxHosts. Default: "<name>.agents".
	Hosts []string `json:"hosts,omitempty" yaml:"hosts,omitempty"`
	// Documents are paths relative to the folder, forward slashes, at most MaxDocuments. They are part of the version as spec.yaml is, which is
	// not listed; other files are not.
	Documents []string `json:"documents,omitempty" yaml:"documents,omitempty"`
	// Parents are versions of this spec from which this one was derived.
	Parents []string `json:"parents,omitempty" yaml:"parents,omitempty"`
	// Fixes names the post-mortem this version answers, such as PM-1.
	Fixes string `json:"fixes,omitempty" yaml:"fixes,omitempty"`
	// Runtime names what must run the version, where the publisher wants that held.
	Runtime Runtime `json:"runtime,omitzero" yaml:"runtime,omitempty"`
	// Request holds what the proxies need to know of requests.
	Request Request `json:"request,omitzero" yaml:"request,omitempty"`
	// Bake is how long the version must hold all the weight to become good without being replaced. More than 0; default 1h.
	Bake Duration `json:"bake,omitempty" yaml:"bake,omitempty"`
	// Rollout is the plan by which the version gets its traffic when it is deployed; the zero plan: all at once.
	Rollout rollout.Plan `json:"rollout,omitzero" yaml:"rollout,omitempty"`
	// Shadow is ShadowSafe where an agent of the version that is told x-spec-shadow: true leaves the world as it is. Default: it says nothing, and the
	// version is sent no copies of requests.
	Shadow string `json:"shadow,omitempty" yaml:"shadow,omitempty"`
	// Segments are the attributes of requests by which executions are counted apart, at most drain.MaxAttributes.
	Segments []drain.Attribute `json:"segments,omitempty" yaml:"segments,omitempty"`
	// Capture says what is kept of failing executions, and what is redacted in it; the zero value: nothing is.
	Capture capture.Rules `json:"capture,omitzero" yaml:"capture,omitempty"`
	// InFlight is the contract for running executions when the version is abandoned. Required.
	InFlight drain.Contract `json:"inFlight" yaml:"inFlight"`
}

// Runtime is what runs a version. An empty field demands nothing.
type Runtime struct {
	// Image is an OCI image digest, "sha256:<hex>".
	Image string `json:"image,omitempty" yaml:"image,omitempty"`
	// Binary is the sha256 of the executable the sidecar starts, "sha256:<hex>".
	Binary string `json:"binary,omitempty" yaml:"binary,omitempty"`
	// Model is the model's id in the words of whoever serves it.
	Model string `json:"model,omitempty" yaml:"model,omitempty"`
	// Tools are versions by the tools' names.
	Tools map[string]string `json:"tools,omitempty" yaml:"tools,omitempty"`
}

// Request holds per-spec settings of the data path.
type Request struct {
	// BodyBuffer is the size in bytes up to which Envoy keeps a request's body so that it can be handed over: 1 to MaxBodyBuffer (64 MiB),
	// default 1 MiB.
	BodyBuffer int `json:"bodyBuffer,omitempty" yaml:"bodyBuffer,omitempty"`
}

// ShadowSafe says that the version may be sent copies of requests.
const ShadowSafe = "safe"

// Defaults that apply where a manifest is silent.
const (
	DefaultBodyBuffer = 1 << 20
	DefaultBake       = time.Hour
)

// Duration is a time.Duration that manifests write as "90s" or "15m".
type Duration = drain.Duration
