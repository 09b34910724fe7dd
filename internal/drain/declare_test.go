package drain_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/specproxy/specproxy/internal/drain"
)

const declaring = `
effects: %s
default: {onRollback: complete}
declared:
- {method: GET, path: /v1/*, class: none}
- {grpc: refunds.v1.Refunds/*, class: compensable}
- {skill: quote, class: readonly}
- {tool: "refund.*", class: compensable, compensation: refund.void}
- {tool: refund.issue, class: irreversible}
`

func declaringContract(t *testing.T, reporting drain.Reporting) drain.Contract {
	t.Helper()
	c := mustContract(t, fmt.Sprintf(declaring, reporting))
	if errs := c.Validate(); errs != nil {
		t.Fatal(errs)
	}
	return c
}

// What is declared of a route holds from the first moment; "none" counts only with the guard.
func TestDeclaredRoutes(t *testing.T) {
	for _, c := range []struct {
		reporting    drain.Reporting
		method, path string
		grpc         bool
		want         drain.Effects
		by           drain.Source
	}{
		{drain.Unreported, "GET", "/v1/orders", false, drain.EffectsReadonly, drain.SourceDeclared},
		{drain.Guarded, "GET", "/v1/orders", false, drain.EffectsNone, drain.SourceDeclared},
		{drain.Unreported, "POST", "/refunds.v1.Refunds/Issue", true, drain.EffectsCompensable, drain.SourceDeclared},
		{drain.Unreported, "POST", "/refunds.v1.Refunds/Issue", false, drain.EffectsUnknown, drain.SourceSilent},
		{drain.Guarded, "POST", "/chat", false, drain.EffectsNone, drain.SourceGuarded},
	} {
		l := drain.NewLedger(declaringContract(t, c.reporting))
		x, _ := l.Admit(drain.Begin{ID: "x", Method: c.method, Path: c.path, GRPC: c.grpc, Started: noon})
		if row := x.Row(); row.Effects != c.want || row.EffectsSource != c.by {
			t.Errorf("%s %s %s: effects %s (%s), want %s (%s)", c.reporting, c.method, c.path, row.Effects, row.EffectsSource, c.want, c.by)
		}
	}
}

// A tool that is seen being called counts at once, where the agent will not ask; with the guard the agent's own word counts.
func TestObservedTools(t *testing.T) {
	for _, reporting := range []drain.Reporting{drain.Unreported, drain.Reported, drain.Guarded} {
		l := drain.NewLedger(declaringContract(t, reporting))
		x, _ := l.Admit(drain.Begin{ID: "x", Method: "POST", Path: "/mcp", Started: noon})
		x.Observe([]string{"search", "refund.issue"}, "", noon)
		row := x.Row()
		if !slices.Equal(row.Tools, []string{"search", "refund.issue"}) {
			t.Errorf("%s: tools %v", reporting, row.Tools)
		}
		want := []drain.Act{{Tool: "refund.issue", Class: drain.EffectsIrreversible, Compensation: "refund.void", At: noon, Source: drain.SourceObserved}}
		effects := drain.EffectsIrreversible
		if reporting == drain.Guarded {
			want, effects = nil, drain.EffectsNone
		}
		if !slices.Equal(row.Acts, want) || row.Effects != effects {
			t.Errorf("%s: acts %+v, effects %s", reporting, row.Acts, row.Effects)
		}
		// The agent knows more of the same call: one act, not two.
		x.Report(drain.Act{Tool: "refund.issue", Class: drain.EffectsReadonly, Key: "r-1", At: noon})
		row = x.Row()
		if len(row.Acts) != 1 || row.Acts[0].Key != "r-1" || row.Acts[0].Class != drain.EffectsIrreversible || row.Acts[0].Source != drain.SourceReported {
			t.Errorf("%s: after the report: %+v", reporting, row.Acts)
		}
	}
}

func TestObservedSkill(t *testing.T) {
	l := drain.NewLedger(declaringContract(t, drain.Unreported))
	x, _ := l.Admit(drain.Begin{ID: "x", Method: "POST", Path: "/a2a", Started: noon})
	x.Observe(nil, "quote", noon)
	if row := x.Row(); row.Skill != "quote" || row.Effects != drain.EffectsReadonly || row.EffectsSource != drain.SourceDeclared {
		t.Errorf("%+v", row)
	}
}

// A grant is never of a better class than the tool was declared to be, and needs no class where one is declared.
func TestGrantsKnowWhatIsDeclared(t *testing.T) {
	l := drain.NewLedger(declaringContract(t, drain.Guarded))
	for _, c := range []struct {
		tool        string
		class, want drain.Effects
	}{
		{"refund.issue", drain.EffectsReadonly, drain.EffectsIrreversible},
		{"refund.note", "", drain.EffectsCompensable},
		{"refund.note", drain.EffectsIrreversible, drain.EffectsIrreversible},
		{"mail.send", "", drain.EffectsUnknown},
		{"mail.send", drain.EffectsIdempotent, drain.EffectsIdempotent},
	} {
		x, _ := l.Admit(drain.Begin{ID: c.tool + string(c.class), Method: "POST", Path: "/", Started: noon})
		if err := x.Grant(drain.Act{Tool: c.tool, Class: c.class, At: noon}, nil); err != nil {
			t.Fatal(err)
		}
		if row := x.Row(); row.Effects != c.want || len(row.Acts) != 1 || row.Acts[0].Class != c.want {
			t.Errorf("%s %q: %+v, want %s", c.tool, c.class, row.Acts, c.want)
		}
	}
}

// Who touched the world and succeeded is kept for readers, as who failed is; who only read is gone.
func TestSuccessesThatTouchedTheWorldAreKept(t *testing.T) {
	b := newBench(t, `{effects: reported, default: {onRollback: complete}}`)
	for _, class := range drain.Classes() {
		x := b.admit(string(class))
		x.Report(drain.Act{Tool: "t", Class: class, At: noon})
		x.SetOutcome(true, "")
		x.End(200, noon)
	}
	rows, _ := b.Changed(0)
	var kept []string
	for _, r := range rows {
		kept = append(kept, r.ID)
	}
	if want := []string{"idempotent", "compensable", "unknown", "irreversible"}; !slices.Equal(kept, want) {
		t.Errorf("kept %v, want %v", kept, want)
	}
}

// A contract that names neither tools nor headers needs no look into requests.
func TestWhatAContractLooksAt(t *testing.T) {
	c := mustContract(t, `{default: {onRollback: complete}, rules: [{when: {header: {X-B: "1", x-a: "2"}}, onRollback: cancel}]}`)
	if names := c.HeaderNames(); !slices.Equal(names, []string{"x-a", "x-b"}) || c.NamesTools() || c.NamesSkills() {
		t.Errorf("headers %v, tools %v, skills %v", names, c.NamesTools(), c.NamesSkills())
	}
	d := declaringContract(t, drain.Guarded)
	if !d.NamesTools() || !d.NamesSkills() || d.HeaderNames() != nil {
		t.Errorf("declared tools and skills are not seen")
	}
}

// The abandoned version's contract governs. A ledger is made with the contract of the version it serves, and an order brings no other: whatever
// the target declared for its own executions, those that run are settled by what was declared for them.
func TestTheAbandonedVersionsContractGoverns(t *testing.T) {
	const abandoned = `{effects: guarded, default: {onRollback: complete, within: 2m, then: hold}}`
	const target = `{effects: guarded, default: {onRollback: cancel, retryAfter: 1s}}`
	running, arriving := newBench(t, abandoned), newBench(t, target)
	x, y := running.admit("x"), arriving.admit("y")
	running.Order(drain.Order{Generation: 2, Target: "2.0.3"}, noon)
	if d, _ := x.Decision(); d.Disposition != drain.Complete || d.Then != drain.Hold {
		t.Errorf("under its own contract: %+v", d)
	}
	// The target's contract counts when the target itself is abandoned.
	arriving.Order(drain.Order{Generation: 3, Target: "2.0.2"}, noon)
	if d, _ := y.Decision(); d.Disposition != drain.Cancel {
		t.Errorf("under the target's contract: %+v", d)
	}
}
