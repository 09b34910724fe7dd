package plain_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/agentproto"
	"github.com/specproxy/specproxy/internal/agentproto/plain"
	"github.com/specproxy/specproxy/internal/drain"
)

var signal = agentproto.Signal{
	Spec: "customer-service", From: "2.1.0", To: "2.0.3", Execution: "x1.id", Effects: drain.EffectsNone,
	RetryAfter: 1500 * time.Millisecond, Why: "rule 1", PostMortem: "PM-1",
}

func TestResponse(t *testing.T) {
	status, header, body := plain.Response(signal)
	want := map[string][]string{
		"Content-Type": {"application/problem+json"}, "Cache-Control": {"no-store"}, "X-Should-Retry": {"true"},
		"Retry-After": {"2"}, "Retry-After-Ms": {"1500"}, "X-Spec-Rollback": {"from=2.1.0, to=2.0.3, effects=none"},
	}
	if status != 503 || !reflect.DeepEqual(map[string][]string(header), want) {
		t.Errorf("got %d %v", status, header)
	}
	const document = `{"type":"urn:specproxy:problem:spec-version-rolled-back","title":"The spec version was rolled back","status":503,` +
		`"detail":"customer-service 2.1.0 was rolled back to 2.0.3 while this ran; send the request again","code":"SPEC_VERSION_ROLLED_BACK",` +
		`"spec":"customer-service","from":"2.1.0","to":"2.0.3","effects":"none","retry":true,"retryAfterMs":1500,"execution":"x1.id","why":"rule 1","postMortem":"PM-1"}`
	if string(body) != document {
		t.Errorf("got  %s\nwant %s", body, document)
	}
}

func TestResponseThatForbidsTheRepeat(t *testing.T) {
	s := signal
	s.Effects = drain.EffectsIrreversible
	status, header, body := plain.Response(s)
	if status != 503 || header.Get("X-Should-Retry") != "false" || header.Get("Retry-After") != "" || header.Get("Retry-After-Ms") != "" ||
		!strings.Contains(string(body), `"retry":false`) || strings.Contains(string(body), "retryAfterMs") {
		t.Errorf("got %d %v %s", status, header, body)
	}
}

func TestResponseOfALeavingInstance(t *testing.T) {
	s := signal
	s.To = s.From
	_, header, body := plain.Response(s)
	if header.Get("X-Spec-Rollback") != "" || !strings.Contains(string(body), `"code":"INSTANCE_LEAVING"`) || strings.Contains(string(body), `"to"`) {
		t.Errorf("got %v %s", header, body)
	}
}

func TestEvent(t *testing.T) {
	lines := strings.Split(string(plain.Event(signal)), "\n")
	if len(lines) != 4 || lines[0] != "event: error" || lines[2] != "" || lines[3] != "" {
		t.Fatalf("got %q", lines)
	}
	data, ok := strings.CutPrefix(lines[1], "data: ")
	if !ok || !json.Valid([]byte(data)) {
		t.Errorf("got %q", lines[1])
	}
}

func TestParseOutcome(t *testing.T) {
	for value, want := range map[string]plain.Outcome{
		"success":                                 {Success: true},
		"Success":                                 {Success: true},
		"failure":                                 {},
		`failure; reason="over; the \"limit\""`:   {Reason: `over; the "limit"`},
		`failure;reason=short`:                    {Reason: "short"},
		`failure; reason*=UTF-8''%C3%BCber`:       {Reason: "über"},
		`success; reason="refunded"; extra=thing`: {Success: true, Reason: "refunded"},
	} {
		if got, err := plain.ParseOutcome(value); err != nil || got != want {
			t.Errorf("%q: %+v, %v", value, got, err)
		}
	}
	for _, value := range []string{"", "perhaps", "success, failure", `failure; reason="open`} {
		if got, err := plain.ParseOutcome(value); err == nil {
			t.Errorf("%q is read as %+v", value, got)
		}
	}
}

func TestParseEffects(t *testing.T) {
	for _, c := range []struct {
		values []string
		want   []drain.Act
		bad    bool
	}{
		{nil, nil, false},
		{[]string{"", " , "}, nil, false},
		{[]string{`irreversible; tool="refund.issue"; key=r-17; compensation="refund.void, then mail"`},
			[]drain.Act{{Tool: "refund.issue", Class: drain.EffectsIrreversible, Key: "r-17", Compensation: "refund.void, then mail"}}, false},
		{[]string{"readonly; tool=a, idempotent; tool=b", "none"},
			[]drain.Act{{Tool: "a", Class: drain.EffectsReadonly}, {Tool: "b", Class: drain.EffectsIdempotent}, {Class: drain.EffectsNone}}, false},
		{[]string{"terrible; tool=x"}, []drain.Act{{Tool: "x", Class: drain.EffectsUnknown}}, true},
		{[]string{`readonly; tool="open`}, []drain.Act{{Class: drain.EffectsUnknown}}, true},
	} {
		got, err := plain.ParseEffects(c.values)
		if !reflect.DeepEqual(got, c.want) || (err != nil) != c.bad {
			t.Errorf("%q: %+v, %v", c.values, got, err)
		}
	}
}

// Whatever an agent writes: something is never read as nothing, and a class that is not one never as a harmless one.
func FuzzParseEffects(f *testing.F) {
	for _, seed := range []string{"", "none", `irreversible; tool="a,b"`, "x;y=z,", `"`, "a;b;c", "readonly;tool*=utf-8''x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		acts, err := plain.ParseEffects([]string{value})
		if strings.Trim(value, " \t\r\n\v\f,\u0085\u00a0") != "" && len(acts) == 0 && !strings.ContainsFunc(value, func(r rune) bool { return r > 127 }) {
			t.Errorf("%q says nothing", value)
		}
		for _, a := range acts {
			if _, bad := drain.ParseEffects(string(a.Class)); bad != nil {
				t.Errorf("%q has class %q", value, a.Class)
			}
		}
		if err != nil && len(acts) == 0 {
			t.Errorf("%q: an error without an act: %v", value, err)
		}
	})
}

func FuzzParseOutcome(f *testing.F) {
	for _, seed := range []string{"", "success", `failure; reason="x"`, "failure;;", "SUCCESS ;a=b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, err := plain.ParseOutcome(value)
		if err == nil && got.Success != strings.HasPrefix(strings.ToLower(strings.TrimSpace(value)), "success") {
			t.Errorf("%q is read as %+v", value, got)
		}
	})
}
