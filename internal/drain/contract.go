// Package drain decides what happens to running executions when their version is abandoned.
//
// It holds the in-flight contract (declared in the version's manifest, before any deploy), the ledger of running executions that every
// sidecar keeps, and Decide, which joins the two. Invariants:
//   - an execution is decided over at most once while a fence stands, and a cut (hand-over or cancel) is final: decision and grant share one
//     lock, so nothing is granted after a cut;
//   - silence about effects is Unknown, never None, unless the agent asks before it acts (Guarded);
//   - only a declared or reported irreversible effect overrides the contract: such an execution is never cut, but by an operator who means it or
//     by the end of its process (Evict);
//   - an execution that has ended is counted exactly once;
//   - the contract of the version that is abandoned governs, never the target's: it was declared for these executions, before they began.
//
// The package is pure: it reads no clock, does no I/O and starts no goroutine; `now` comes in as a value.
package drain

// Disposition is what happens to one running execution.
type Disposition string

const (
	// Complete lets it go on under the abandoned version.
	Complete Disposition = "complete"
	// Handover begins it again under the target version, without the client noticing.
	Handover Disposition = "handover"
	// Cancel ends it with the retry signal.
	Cancel Disposition = "cancel"
	// Hold never cuts it; a person is shown it. Only ever follows a deadline.
	Hold Disposition = "hold"
)

// Effects classes what an execution has done to the world. Higher is worse; Unknown is treated as Irreversible unless a rule names it.
// None counts only where the agent is guarded: without the guard, nothing said so far proves nothing.
type Effects string

// The classes, harmless first but for Unknown; Classes gives their order.
const (
	EffectsNone         Effects = "none"
	EffectsReadonly     Effects = "readonly"
	EffectsIdempotent   Effects = "idempotent"
	EffectsCompensable  Effects = "compensable"
	EffectsIrreversible Effects = "irreversible"
	EffectsUnknown      Effects = "unknown"
)

// Reporting says how the agent tells about its effects.
type Reporting string

const (
	// Unreported means not at all; effects are Unknown unless declared.
	Unreported Reporting = "unreported"
	// Reported means after the act, by header or local API. Silence is still Unknown.
	Reported Reporting = "reported"
	// Guarded means that the agent asks before it acts. Silence is None, since nothing can have happened.
	Guarded Reporting = "guarded"
)

// Contract is the `inFlight` section of a manifest.
type Contract struct {
	Effects Reporting `json:"effects,omitempty" yaml:"effects,omitempty"`
	Default Action    `json:"default" yaml:"default"`
	// Rules are tried in order; the first match wins.
	Rules []Rule `json:"rules,omitempty" yaml:"rules,omitempty"`
	// CompatibleWith is the range of versions of this spec that can take over this one's executions, such as ">=2.0.0 <3"; empty: all. A
	// hand-over to another version is impossible, and a deploy whose exit would be one is refused.
	CompatibleWith string `json:"compatibleWith,omitempty" yaml:"compatibleWith,omitempty"`
	// Declared says what routes, tools and skills are known to do to the world. Of those that match a request the worst counts.
	Declared []Declaration `json:"declared,omitempty" yaml:"declared,omitempty"`
	// DefaultWithin bounds the deadline of a `complete` that gives none: twice the pool's own 99th percentile, then hold. Default 1m-1h.
	DefaultWithin Range `json:"defaultWithin,omitzero" yaml:"defaultWithin,omitempty"`
	// MaxTotal caps how long `complete` lets a conversation go on under the abandoned version: an execution to which several exchanges belong.
	// At its end even what is held is cancelled, but for irreversible effects. Zero: no cap.
	MaxTotal Duration `json:"maxTotal,omitempty" yaml:"maxTotal,omitempty"`
	// OnPromote governs where the version loses all weight and is not abandoned; OnShutdown where one instance of it ends.
	OnPromote  Section `json:"onPromote,omitzero" yaml:"onPromote,omitempty"`
	OnShutdown Section `json:"onShutdown,omitzero" yaml:"onShutdown,omitempty"`
}

// Action is a disposition with all that goes with it.
type Action struct {
	OnRollback Disposition `json:"onRollback" yaml:"onRollback"`
	// Within is the deadline of `complete`, counted from when the order reaches the sidecar: clocks differ, and to cut early would break the
	// contract. Without it the execution runs until it ends or until the request's own deadline, which also wins where it is shorter.
	Within Duration `json:"within,omitempty" yaml:"within,omitempty"`
	// Then follows the deadline: cancel or hold. Required with Within.
	Then Disposition `json:"then,omitempty" yaml:"then,omitempty"`
	// Else applies where a hand-over is impossible: complete or cancel. Required with handover.
	Else Disposition `json:"else,omitempty" yaml:"else,omitempty"`
	// RetryAfter is the range over which retry signals are spread; zero: the order's own spread.
	RetryAfter Range `json:"retryAfter,omitzero" yaml:"retryAfter,omitempty"`
}

// Rule is an action for the executions that When matches.
type Rule struct {
	When   Match `json:"when" yaml:"when"`
	Action `yaml:",inline"`
}

// Match is a conjunction; an empty field matches all.
type Match struct {
	// Effects is one class or several.
	Effects AnyOf `json:"effects,omitempty" yaml:"effects,omitempty"`
	// Method is an HTTP method, upper case.
	Method string `json:"method,omitempty" yaml:"method,omitempty"`
	// Path matches the whole path; a trailing * matches any rest.
	Path string `json:"path,omitempty" yaml:"path,omitempty"`
	// GRPC is a gRPC method, "package.Service/Method"; "package.Service/*" are all of the service.
	GRPC string `json:"grpc,omitempty" yaml:"grpc,omitempty"`
	// Tool is the name of a tool that the execution has used: called over MCP through the sidecar, granted or reported. A trailing * matches
	// any rest.
	Tool string `json:"tool,omitempty" yaml:"tool,omitempty"`
	// Skill is the id of an A2A skill that the request asks for. A trailing * matches any rest.
	Skill string `json:"skill,omitempty" yaml:"skill,omitempty"`
	// OlderThan matches executions that have run longer than this when the order comes, YoungerThan those that have run shorter.
	OlderThan   Duration `json:"olderThan,omitempty" yaml:"olderThan,omitempty"`
	YoungerThan Duration `json:"youngerThan,omitempty" yaml:"youngerThan,omitempty"`
	// Header matches the values of request headers by their names. A trailing * matches any rest, * alone any value. Of a header that comes
	// several times the first counts.
	Header map[string]string `json:"header,omitempty" yaml:"header,omitempty"`
}

// Declaration gives the class of effects of a route, a tool or a skill. What is declared of a route or a skill holds from the execution's
// first moment; what is declared of a tool holds once the tool is used.
type Declaration struct {
	// Method, Path, GRPC, Tool and Skill are as in Match.
	Method string  `json:"method,omitempty" yaml:"method,omitempty"`
	Path   string  `json:"path,omitempty" yaml:"path,omitempty"`
	GRPC   string  `json:"grpc,omitempty" yaml:"grpc,omitempty"`
	Tool   string  `json:"tool,omitempty" yaml:"tool,omitempty"`
	Skill  string  `json:"skill,omitempty" yaml:"skill,omitempty"`
	Class  Effects `json:"class" yaml:"class"`
	// Compensation names what would undo an act of the tool, where the agent names nothing.
	Compensation string `json:"compensation,omitempty" yaml:"compensation,omitempty"`
}
