package drain_test

import (
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/drain"
)

func TestValidateTakesSoundContracts(t *testing.T) {
	for _, text := range []string{
		`{default: {onRollback: complete}}`,
		`{default: {onRollback: cancel, retryAfter: 1s-5s}}`,
		`{default: {onRollback: handover, else: complete, within: 5m, then: hold}}`,
		`{default: {onRollback: handover, else: cancel, retryAfter: 1s}}`,
		`{default: {onRollback: complete, within: 2m, then: cancel, retryAfter: 1s-5s}}`,
		// A later rule is narrower in one way and wider in another.
		`{default: {onRollback: complete}, rules: [
			{when: {method: GET, olderThan: 2s}, onRollback: cancel}, {when: {method: GET}, onRollback: complete},
			{when: {path: /v1/a*}, onRollback: cancel}, {when: {path: /v1/*}, onRollback: complete}]}`,
		// The rule for irreversible takes unknown until a rule names it: neither covers the other.
		`{default: {onRollback: complete}, rules: [
			{when: {effects: irreversible}, onRollback: complete}, {when: {effects: unknown}, onRollback: cancel}]}`,
		// Under a report, readonly can be known; none cannot.
		`{effects: reported, default: {onRollback: complete}, rules: [{when: {effects: readonly}, onRollback: cancel}]}`,
		`{effects: guarded, default: {onRollback: complete}, rules: [{when: {effects: none}, onRollback: cancel}]}`,
		// Everything but one class is taken before.
		`{effects: guarded, default: {onRollback: complete}, rules: [
			{when: {effects: none}, onRollback: cancel}, {when: {effects: readonly}, onRollback: cancel}, {when: {effects: idempotent}, onRollback: cancel},
			{when: {effects: irreversible}, onRollback: complete}, {onRollback: cancel}]}`,
		`{default: {onRollback: complete}, rules: [{when: {path: "*"}, onRollback: cancel}]}`,
	} {
		if errs := mustContract(t, text).Validate(); errs != nil {
			t.Errorf("%s\n%v", text, errs)
		}
	}
}

// badContracts has one bad contract for every error, which is the only one it gives.
var badContracts = []struct{ contract, want string }{
	{`{effects: asked, default: {onRollback: complete}}`,
		`inFlight.effects: "asked" is not a way of reporting: write unreported, reported or guarded`},
	{`{rules: [{when: {method: GET}, onRollback: cancel}]}`,
		`inFlight.default: missing: it says what happens to an execution that no rule matches; write {onRollback: complete}, or handover or cancel`},
	{`{default: {within: 2m, then: cancel}}`,
		`inFlight.default.onRollback: missing: write complete, handover or cancel`},
	{`{default: {onRollback: abort}}`,
		`inFlight.default.onRollback: "abort" is not a disposition: write complete, handover or cancel`},
	{`{default: {onRollback: hold}}`,
		`inFlight.default.onRollback: hold only follows a deadline: write {onRollback: complete, within: 15m, then: hold}`},
	{`{default: {onRollback: complete, within: 2m}}`,
		`inFlight.default.then: missing: say what follows after 2m, cancel or hold`},
	{`{default: {onRollback: complete, within: 2m, then: handover}}`,
		`inFlight.default.then: "handover" cannot follow a deadline: write cancel or hold`},
	{`{default: {onRollback: complete, then: hold}}`,
		`inFlight.default.within: missing: then: hold has no deadline to follow; add within: 2m, or leave then out to let it run until it ends`},
	{`{default: {onRollback: complete, within: 0s, then: hold}}`,
		`inFlight.default.within: missing: then: hold has no deadline to follow; add within: 2m, or leave then out to let it run until it ends`},
	{`{default: {onRollback: cancel, within: 2m, then: cancel}}`,
		`inFlight.default: within and then belong to complete, which never happens here: leave them out, or write onRollback: complete`},
	{`{default: {onRollback: handover, else: cancel, within: 2m, then: cancel}}`,
		`inFlight.default: within and then belong to complete, which never happens here: leave them out, or write onRollback: complete`},
	{`{default: {onRollback: handover}}`,
		`inFlight.default.else: missing: a hand-over is not always possible; say what happens then, complete or cancel`},
	{`{default: {onRollback: handover, else: hold}}`,
		`inFlight.default.else: "hold" cannot stand in for a hand-over: write complete or cancel`},
	{`{default: {onRollback: complete, else: cancel}}`,
		`inFlight.default.else: else belongs to handover: leave it out, or write onRollback: handover`},
	{`{default: {onRollback: complete, retryAfter: 1s}}`,
		`inFlight.default.retryAfter: nothing is cancelled here, so nobody is told to retry: leave it out`},
	{`{default: {onRollback: complete}, rules: [{when: {method: GET}}]}`,
		`inFlight.rules[0].onRollback: missing: write complete, handover or cancel`},
	{`{default: {onRollback: complete}, rules: [{when: {effects: harmless}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.effects: "harmless" is not a class of effects: write none, readonly, idempotent, compensable, unknown or irreversible`},
	{`{default: {onRollback: complete}, rules: [{when: {method: get}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.method: "get" is not an HTTP method: write one method in capitals, such as GET`},
	{`{default: {onRollback: complete}, rules: [{when: {method: "GET, HEAD"}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.method: "GET, HEAD" is not an HTTP method: write one method in capitals, such as GET`},
	{`{default: {onRollback: complete}, rules: [{when: {effects: [readonly, readonly]}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.effects: readonly is listed twice`},
	{`{default: {onRollback: complete}, rules: [{when: {effects: [none, readonly]}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.effects: none can never match: effects: none counts only where the agent asks before it acts; write inFlight.effects: guarded, or effects: readonly here`},
	{`{default: {onRollback: complete}, rules: [{when: {grpc: Issue}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.grpc: "Issue" is not a gRPC method: write package.Service/Method, or package.Service/* for all of a service`},
	{`{default: {onRollback: complete}, rules: [{when: {grpc: a.B/C, method: POST}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.grpc: grpc says method and path: leave those out`},
	{`{default: {onRollback: complete}, rules: [{when: {tool: "*.issue"}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.tool: "*.issue" has a * before its end: only a trailing * matches any rest`},
	{`{default: {onRollback: complete}, rules: [{when: {header: {Authorization: "*"}}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.header.Authorization: authorization holds secrets, and what a rule looks at is kept and shown: match another header`},
	{`{default: {onRollback: complete}, rules: [{when: {header: {x-spec-pin: "*"}}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.header.x-spec-pin: x-spec-pin is consumed on the way and never seen by a rule: match another header`},
	{`{default: {onRollback: complete}, rules: [{when: {header: {x-tier: ""}}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.header.x-tier: has no value: write one, or * for any`},
	{`{default: {onRollback: complete}, rules: [{when: {olderThan: 1m, youngerThan: 30s}, onRollback: cancel}]}`,
		`inFlight.rules[0].when: can never match: nothing is older than 1m and younger than 30s`},
	{`{default: {onRollback: complete}, compatibleWith: newer}`,
		`inFlight.compatibleWith: "newer" is not a range of versions: write such as ">=2.0.0 <3.0.0" or "~2.1"`},
	{`{default: {onRollback: complete}, declared: [{class: readonly}]}`,
		`inFlight.declared[0]: names nothing: say which tool, skill, grpc, path or method it is about`},
	{`{default: {onRollback: complete}, declared: [{tool: a, method: GET, class: readonly}]}`,
		`inFlight.declared[0]: names a tool and more: a tool's acts are the same on every route; leave the rest out`},
	{`{default: {onRollback: complete}, declared: [{skill: a, method: GET, class: readonly}]}`,
		`inFlight.declared[0]: names a skill and a route: a skill is the same on every route; leave the route out`},
	{`{default: {onRollback: complete}, declared: [{tool: a}]}`,
		`inFlight.declared[0].class: missing: write none, readonly, idempotent, compensable, unknown or irreversible`},
	{`{default: {onRollback: complete}, declared: [{tool: a, class: bad}]}`,
		`inFlight.declared[0].class: "bad" is not a class of effects: write none, readonly, idempotent, compensable, unknown or irreversible`},
	{`{default: {onRollback: complete}, declared: [{skill: a, class: compensable, compensation: b}]}`,
		`inFlight.declared[0].compensation: undoes an act, and acts are of a tool: name the tool, or leave it out`},
	{`{default: {onRollback: complete}, rules: [{when: {path: v1/chat}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.path: "v1/chat" is not a path: it begins with a slash, such as /v1/chat or /v1/*`},
	{`{default: {onRollback: complete}, rules: [{when: {path: /v1/*/runs}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.path: "/v1/*/runs" has a * before its end: only a trailing * matches any rest`},
	{`{default: {onRollback: complete}, rules: [{when: {path: "/v1?a=1"}, onRollback: cancel}]}`,
		`inFlight.rules[0].when.path: "/v1?a=1" holds a query or a fragment: rules match the path alone`},
	// Two earlier rules take every age between them.
	{`{default: {onRollback: complete}, rules: [{when: {olderThan: 2s}, onRollback: cancel}, {when: {youngerThan: 3s}, onRollback: cancel}, {when: {method: GET}, onRollback: cancel}]}`,
		`inFlight.rules[2]: can never match: inFlight.rules[1], inFlight.rules[0] come first and take all of it; move this rule up or delete it`},
	{`{default: {onRollback: complete}, rules: [{when: {tool: "refund.*"}, onRollback: cancel}, {when: {tool: refund.issue, header: {x-a: "1"}}, onRollback: cancel}]}`,
		`inFlight.rules[1]: can never match: inFlight.rules[0] comes first and takes all of it; move this rule up or delete it`},
	{`{default: {onRollback: complete}, rules: [{when: {method: POST, path: /a.B/*}, onRollback: cancel}, {when: {grpc: a.B/C}, onRollback: cancel}]}`,
		`inFlight.rules[1]: can never match: inFlight.rules[0] comes first and takes all of it; move this rule up or delete it`},
	// A rule that can never match: its class cannot occur,
	{`{default: {onRollback: complete}, rules: [{when: {effects: none}, onRollback: cancel}]}`,
		`inFlight.rules[0]: can never match: effects: none counts only where the agent asks before it acts; write inFlight.effects: guarded, or effects: readonly here`},
	{`{effects: reported, default: {onRollback: complete}, rules: [{when: {effects: none}, onRollback: cancel}]}`,
		`inFlight.rules[0]: can never match: effects: none counts only where the agent asks before it acts; write inFlight.effects: guarded, or effects: readonly here`},
	// or earlier ones take all of it.
	{`{default: {onRollback: complete}, rules: [{onRollback: complete}, {when: {effects: unknown}, onRollback: cancel}]}`,
		`inFlight.rules[1]: can never match: inFlight.rules[0] comes first and takes all of it; move this rule up or delete it`},
	{`{default: {onRollback: complete}, rules: [{when: {method: GET}, onRollback: cancel}, {when: {method: GET}, onRollback: cancel}]}`,
		`inFlight.rules[1]: can never match: inFlight.rules[0] comes first and takes all of it; move this rule up or delete it`},
	{`{default: {onRollback: complete}, rules: [{when: {olderThan: 2s}, onRollback: cancel}, {when: {method: GET, olderThan: 30s}, onRollback: cancel}]}`,
		`inFlight.rules[1]: can never match: inFlight.rules[0] comes first and takes all of it; move this rule up or delete it`},
	{`{default: {onRollback: complete}, rules: [{when: {path: /v1/*}, onRollback: cancel}, {when: {path: /v1/runs/*}, onRollback: cancel}]}`,
		`inFlight.rules[1]: can never match: inFlight.rules[0] comes first and takes all of it; move this rule up or delete it`},
	{`{default: {onRollback: complete}, rules: [{when: {path: /v1/*}, onRollback: cancel}, {when: {path: /v1/runs}, onRollback: cancel}]}`,
		`inFlight.rules[1]: can never match: inFlight.rules[0] comes first and takes all of it; move this rule up or delete it`},
	{`{default: {onRollback: complete}, rules: [{when: {path: "*"}, onRollback: cancel}, {when: {method: GET}, onRollback: cancel}]}`,
		`inFlight.rules[1]: can never match: inFlight.rules[0] comes first and takes all of it; move this rule up or delete it`},
	{`{default: {onRollback: complete}, rules: [
		{when: {effects: readonly}, onRollback: cancel}, {when: {effects: idempotent}, onRollback: cancel}, {when: {effects: compensable}, onRollback: cancel},
		{when: {effects: irreversible}, onRollback: complete}, {when: {method: GET}, onRollback: cancel}]}`,
		`inFlight.rules[4]: can never match: inFlight.rules[0], inFlight.rules[1], inFlight.rules[2], inFlight.rules[3] come first and take all of it; move this rule up or delete it`},
}

func TestValidateErrors(t *testing.T) {
	for _, c := range badContracts {
		errs := mustContract(t, c.contract).Validate()
		if len(errs) != 1 || errs[0].Error() != c.want {
			t.Errorf("%s\n got %v\nwant %s", c.contract, errs, c.want)
		}
	}
}

// Values that no document can hold are still refused: a contract may come from code.
func TestValidateRefusesNegativeDurations(t *testing.T) {
	c := drain.Contract{
		Default: drain.Action{OnRollback: drain.Complete, Within: -1, Then: drain.Cancel, RetryAfter: drain.Range{Min: 2, Max: 1}},
		Rules:   []drain.Rule{{When: drain.Match{OlderThan: -1}, Action: drain.Action{OnRollback: drain.Cancel}}},
	}
	places := []string{"inFlight.default.within: ", "inFlight.default.retryAfter: ", "inFlight.rules[0].when.olderThan: "}
	errs := c.Validate()
	if len(errs) != len(places) {
		t.Fatalf("got %v", errs)
	}
	for i, place := range places {
		if !strings.HasPrefix(errs[i].Error(), place) {
			t.Errorf("got %v, want one that begins with %s", errs[i], place)
		}
	}
}

// All that is wrong is said at once.
func TestValidateReportsEverything(t *testing.T) {
	c := mustContract(t, `{effects: asked, default: {onRollback: handover}, rules: [{when: {effects: bad, method: get}, onRollback: hold}]}`)
	if errs := c.Validate(); len(errs) != 5 {
		t.Errorf("got %d errors, want 5: %v", len(errs), errs)
	}
}
