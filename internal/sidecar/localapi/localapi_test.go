package localapi_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/journal"
	"github.com/specproxy/specproxy/internal/sidecar/localapi"
)

type rig struct {
	t      *testing.T
	ledger *drain.Ledger
	api    *localapi.API
	// shadows is the ledger of copies.
	shadows *drain.Ledger
	path    string
	url     string
}

func newRig(t *testing.T, effects drain.Reporting, wrap func(localapi.Journal) localapi.Journal) *rig {
	t.Helper()
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "journal")}
	r.ledger = drain.NewLedger(drain.Contract{Effects: effects, Default: drain.Action{OnRollback: drain.Cancel}})
	r.shadows = drain.NewLedger(drain.Contract{
		Effects: effects, Default: drain.Action{OnRollback: drain.Cancel}, Declared: []drain.Declaration{{Tool: "orders.read", Class: drain.EffectsReadonly}},
	})
	j, _, _, err := journal.Open(r.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	var kept localapi.Journal = j
	if wrap != nil {
		kept = wrap(j)
	}
	r.api = localapi.New(localapi.Config{
		Ledger: r.ledger, Shadows: r.shadows, Guarded: effects == drain.Guarded, Journal: kept, Changed: func() {}, Now: time.Now, Log: zaptest.NewLogger(t),
	})
	server := httptest.NewServer(r.api.Handler())
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *rig) admit(id string) *drain.Execution {
	r.t.Helper()
	x, _ := r.ledger.Admit(drain.Begin{ID: id, Method: "POST", Path: "/refund", Started: time.Now(), Cut: func(drain.Decision) {}})
	return x
}

// journalled is what a sidecar would find that starts now.
func (r *rig) journalled() int {
	r.t.Helper()
	_, left, _, err := journal.Open(r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	n := 0
	for _, x := range left {
		n += len(x.Acts)
	}
	return n
}

func (r *rig) call(method, path, body string, headers ...string) (int, map[string]any) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		} else {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	var answer map[string]any
	_ = json.NewDecoder(res.Body).Decode(&answer)
	return res.StatusCode, answer
}

const act = `{"executionId":"x1","tool":"refund.issue","class":"irreversible","key":"r-1","compensation":"refund.void"}`

func TestGrant(t *testing.T) {
	r := newRig(t, drain.Guarded, nil)
	x := r.admit("x1")
	if status, answer := r.call("POST", "/v1/effects", act); status != 200 || answer["granted"] != true {
		t.Fatalf("got %d %v", status, answer)
	}
	row := x.Row()
	if len(row.Acts) != 1 || row.Acts[0].Key != "r-1" || row.Effects != drain.EffectsIrreversible || row.EffectsSource != drain.SourceGuarded {
		t.Errorf("ledger %+v", row)
	}
	if n := r.journalled(); n != 1 {
		t.Errorf("%d acts journalled", n)
	}
}

func TestNothingIsGrantedAfterACut(t *testing.T) {
	r := newRig(t, drain.Guarded, nil)
	x := r.admit("x1")
	r.ledger.Order(drain.Order{Generation: 1, Target: "2.0.3"}, time.Now())
	if status, answer := r.call("POST", "/v1/effects", act); status != 409 || answer["granted"] != false || !strings.Contains(answer["why"].(string), "cancel") {
		t.Errorf("got %d %v", status, answer)
	}
	if len(x.Row().Acts) != 0 || r.journalled() != 0 {
		t.Error("the refused act is remembered")
	}
	if status, answer := r.call("GET", "/v1/executions/x1", ""); status != 200 || answer["state"] != "cut" || answer["cut"] != true || answer["disposition"] != "cancel" {
		t.Errorf("got %d %v", status, answer)
	}
}

// Every act is either granted, and then nothing cut the execution, or refused.
func TestGrantsAndAnOrderAtOnce(t *testing.T) {
	r := newRig(t, drain.Guarded, nil)
	x := r.admit("x1")
	granted := make(chan bool, 50)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			status, answer := r.call("POST", "/v1/effects", act)
			if status != 200 && status != 409 {
				t.Errorf("got %d %v", status, answer)
			}
			granted <- status == 200
		})
	}
	r.ledger.Order(drain.Order{Generation: 1, Target: "2.0.3"}, time.Now())
	all.Wait()
	close(granted)
	n := 0
	for g := range granted {
		if g {
			n++
		}
	}
	if d, _ := x.Decision(); d.Cuts() && n != 0 && len(x.Row().Acts) != n {
		t.Errorf("%d granted of an execution that is cut, the ledger has %d", n, len(x.Row().Acts))
	} else if d.Cuts() && d.Effects == drain.EffectsIrreversible {
		t.Errorf("an irreversible execution is cut: %+v", d)
	}
	if j := r.journalled(); j < n {
		t.Errorf("%d granted, %d journalled", n, j)
	}
}

type broken struct{ localapi.Journal }

func (broken) Grant(journal.Execution, drain.Act) error { return errors.New("disk full") }

func TestNothingIsGrantedThatCannotBeJournalled(t *testing.T) {
	r := newRig(t, drain.Guarded, func(j localapi.Journal) localapi.Journal { return broken{j} })
	x := r.admit("x1")
	if status, answer := r.call("POST", "/v1/effects", act); status != 503 || answer["granted"] != false || !strings.Contains(answer["why"].(string), "disk full") {
		t.Errorf("got %d %v", status, answer)
	}
	if len(x.Row().Acts) != 0 {
		t.Error("the ledger has it all the same")
	}
}

// ending ends the execution while its grant is being journalled.
type ending struct {
	localapi.Journal
	end func()
}

func (e ending) Grant(x journal.Execution, a drain.Act) error {
	e.end()
	return e.Journal.Grant(x, a)
}

func TestAGrantThatComesTooLateLeavesNothingOpen(t *testing.T) {
	var x *drain.Execution
	r := newRig(t, drain.Guarded, func(j localapi.Journal) localapi.Journal {
		return ending{j, func() {
			x.End(200, time.Now())
			if err := j.End("x1"); err != nil {
				t.Error(err)
			}
		}}
	})
	x = r.admit("x1")
	if status, answer := r.call("POST", "/v1/effects", act); status != 409 || answer["granted"] != false {
		t.Errorf("got %d %v", status, answer)
	}
	if n := r.journalled(); n != 0 {
		t.Errorf("%d acts are left open for ever", n)
	}
}

func TestUnguardedAgentsTell(t *testing.T) {
	r := newRig(t, drain.Reported, nil)
	x := r.admit("x1")
	r.ledger.Order(drain.Order{Generation: 1, Target: "2.0.3"}, time.Now())
	if status, answer := r.call("POST", "/v1/effects", act); status != 200 || answer["granted"] != true {
		t.Errorf("got %d %v", status, answer)
	}
	if row := x.Row(); len(row.Acts) != 1 || row.EffectsSource != drain.SourceReported || r.journalled() != 0 {
		t.Errorf("ledger %+v", row)
	}
}

func TestCloseEndsGrants(t *testing.T) {
	r := newRig(t, drain.Guarded, nil)
	r.admit("x1")
	r.api.Close()
	if status, answer := r.call("POST", "/v1/effects", act); status != 409 || answer["granted"] != false {
		t.Errorf("got %d %v", status, answer)
	}
}

func TestOutcome(t *testing.T) {
	r := newRig(t, drain.Guarded, nil)
	x := r.admit("x1")
	if status, _ := r.call("POST", "/v1/outcome", `{"executionId":"x1","outcome":"failure","reason":"parked"}`); status != 204 {
		t.Errorf("got %d", status)
	}
	if row := x.Row(); row.Outcome != drain.Failure || row.OutcomeReason != "parked" || !row.EndedAt.IsZero() {
		t.Errorf("ledger %+v", row)
	}
	if status, answer := r.call("GET", "/v1/executions/x1", ""); status != 200 || answer["outcome"] != "failure" || answer["state"] != "running" || answer["cut"] != false {
		t.Errorf("got %d %v", status, answer)
	}
}

func TestLateOutcome(t *testing.T) {
	r := newRig(t, drain.Guarded, nil)
	r.admit("x1").End(200, time.Now())
	if status, _ := r.call("POST", "/v1/outcome", `{"executionId":"x1","outcome":"failure","reason":"the bank sent it back"}`); status != 204 {
		t.Errorf("got %d", status)
	}
	if totals := r.ledger.Totals(); totals.Failed != 1 || totals.Unknown != 0 {
		t.Errorf("totals %+v", totals)
	}
	if status, answer := r.call("POST", "/v1/outcome", `{"executionId":"x1","outcome":"success"}`); status != 409 {
		t.Errorf("a failure was taken back: %d %v", status, answer)
	}
}

func TestBadInput(t *testing.T) {
	r := newRig(t, drain.Guarded, nil)
	r.admit("x1")
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/v1/effects", `{"executionId":"nobody","tool":"t","class":"none"}`, 404},
		{"POST", "/v1/outcome", `{"executionId":"nobody","outcome":"success"}`, 404},
		{"GET", "/v1/executions/nobody", "", 404},
		{"POST", "/v1/effects", `{"executionId":"x1","tool":"t","class":"terrible"}`, 400},
		{"POST", "/v1/effects", `{"executionId":"x1","class":"none"}`, 400},
		{"POST", "/v1/effects", `{"executionId":"x1","tool":"t","effect":"none"}`, 400},
		{"POST", "/v1/effects", `not json`, 400},
		{"POST", "/v1/effects", `{"executionId":"` + strings.Repeat("x", 100<<10) + `"}`, 400},
		{"POST", "/v1/outcome", `{"executionId":"x1","outcome":"maybe"}`, 400},
		{"GET", "/v1/effects", "", 405},
		{"GET", "/", "", 404},
	} {
		if status, answer := r.call(c.method, c.path, c.body); status != c.status {
			t.Errorf("%s %s %.60s: %d %v", c.method, c.path, c.body, status, answer)
		}
	}
	if rows := r.ledger.Running(); len(rows[0].Acts) != 0 || rows[0].Outcome != "" {
		t.Errorf("ledger %+v", rows)
	}
}

func TestNoWebPageReachesIt(t *testing.T) {
	r := newRig(t, drain.Guarded, nil)
	r.admit("x1")
	for _, headers := range [][]string{{"Host", "evil.example"}, {"Origin", "http://evil.example"}, {"Host", "evil.example:80"}} {
		if status, _ := r.call("POST", "/v1/effects", act, headers...); status != 403 {
			t.Errorf("%v: %d", headers, status)
		}
	}
	for _, host := range []string{"localhost", "localhost:1", "[::1]:80", "127.0.0.1"} {
		if status, _ := r.call("POST", "/v1/effects", act, "Host", host); status != 200 {
			t.Errorf("%s: %d", host, status)
		}
	}
}

// A copy of a request may read and do nothing else, whether its agent asks first or only tells.
func TestCopiesAreGrantedNothingButReading(t *testing.T) {
	for _, effects := range []drain.Reporting{drain.Guarded, drain.Reported} {
		r := newRig(t, effects, nil)
		x, _ := r.shadows.Admit(drain.Begin{ID: "copy", Method: "POST", Path: "/refund", Started: time.Now(), Cut: func(drain.Decision) {}})
		for _, c := range []struct {
			body   string
			status int
		}{
			{`{"executionId":"copy","tool":"orders.read"}`, http.StatusOK},
			{`{"executionId":"copy","tool":"search","class":"readonly"}`, http.StatusOK},
			{`{"executionId":"copy","tool":"refund.issue","class":"irreversible"}`, http.StatusConflict},
			{`{"executionId":"copy","tool":"refund.issue"}`, http.StatusConflict},
		} {
			if status, got := r.call("POST", "/v1/effects", c.body); status != c.status || (got["granted"] == true) != (status == http.StatusOK) {
				t.Errorf("%s: %s: %d %v, want %d", effects, c.body, status, got, c.status)
			}
		}
		if acted := x.Row().Touched(); acted != (effects == drain.Reported) {
			t.Errorf("%s: the copy has acted: %v; one that asked has not, one that told has", effects, acted)
		}
		if n := r.journalled(); n != 0 {
			t.Errorf("%s: %d grants are journalled", effects, n)
		}
		if status, got := r.call("GET", "/v1/executions/copy", ""); status != http.StatusOK || got["shadow"] != true {
			t.Errorf("%d %v", status, got)
		}
		if status, _ := r.call("POST", "/v1/outcome", `{"executionId":"copy","outcome":"failure"}`); status != http.StatusNoContent {
			t.Errorf("status %d", status)
		}
		if x.End(200, time.Now()); r.shadows.Totals().Failed != 1 || r.ledger.Totals().Started != 0 {
			t.Errorf("counted %+v, and of others %+v", r.shadows.Totals(), r.ledger.Totals())
		}
	}
}
