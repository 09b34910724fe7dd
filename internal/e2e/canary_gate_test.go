package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// receiver is somebody's server that takes webhooks, checks their signatures and answers as it is told.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	key    []byte
	answer func(http.ResponseWriter)
	got    []map[string]any
	forged []string
}

func newReceiver(t *testing.T, w *world) *receiver {
	t.Helper()
	out, code := w.specctl("canary", "secret")
	encoded, ok := strings.CutPrefix(strings.TrimSpace(out), "whsec_")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if code != 0 || !ok || err != nil || len(key) < 24 {
		t.Fatalf("canary secret: exit %d, %v:\n%s", code, err, out)
	}
	r := &receiver{key: key}
	r.say(`{"result": "insufficient", "reason": "the books are not closed"}`)
	r.Server = httptest.NewServer(http.HandlerFunc(r.take))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) take(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	mac := hmac.New(sha256.New, r.key)
	fmt.Fprintf(mac, "%s.%s.%s", req.Header.Get("webhook-id"), req.Header.Get("webhook-timestamp"), body)
	var got map[string]any
	err := json.Unmarshal(body, &got)
	r.mu.Lock()
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); err != nil || req.Header.Get("webhook-signature") != want {
		r.forged = append(r.forged, string(body))
	}
	r.got = append(r.got, got)
	answer := r.answer
	r.mu.Unlock()
	answer(w)
}

func (r *receiver) say(answer string) {
	r.tell(func(w http.ResponseWriter) { fmt.Fprint(w, answer) })
}

func (r *receiver) tell(answer func(http.ResponseWriter)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// posts waits until the receiver has got so many, and returns the last.
func (r *receiver) posts(t *testing.T, n int) map[string]any {
	t.Helper()
	var last map[string]any
	eventually(t, fmt.Sprintf("%d webhooks", n), func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.forged) > 0 {
			t.Fatalf("not signed: %s", r.forged)
		}
		if len(r.got) < n {
			return fmt.Errorf("%d so far", len(r.got))
		}
		last = r.got[len(r.got)-1]
		return nil
	})
	return last
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// turning is an agent whose executions succeed until they all fail.
func turning(t *testing.T, worse *atomic.Bool) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		outcome := "success"
		if worse.Load() {
			outcome = "failure"
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Spec-Outcome", outcome)
		fmt.Fprintln(w, "done")
	}))
	t.Cleanup(s.Close)
	return s
}

// visit asks for a page, or posts its form.
func visit(t *testing.T, method, link string) (status int, page string) {
	t.Helper()
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader(url.Values{"by": {"ann <b>"}, "reason": {"looks fine"}}.Encode())
	}
	req, err := http.NewRequestWithContext(t.Context(), method, link, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

// Gates before the first step and a later one: links act once and only when posted, a webhook opens by saying so and by nothing else, and a canary
// that turns out bad while a gate waits is rolled back.
func TestGatesStandBeforeSteps(t *testing.T) {
	w := startPlane(t, nil)
	canaries(t, w, map[string]int64{"1.0.0": 0})
	var worse atomic.Bool
	w.publish("refunds", "1.1.0", canaryContract)
	w.sidecar("refunds:1.1.0", turning(t, &worse).URL)
	w.ready("refunds", "1.1.0", 1)
	chat, ledger := newReceiver(t, w), newReceiver(t, w)
	second := durationpb.New(time.Second)
	manual := &operatorv1.RolloutGate{Name: "sign-off", Manual: true, Notify: chat.URL, Every: second}
	plan := &operatorv1.RolloutPlan{MaxHarmed: -1, Steps: []*operatorv1.RolloutStep{
		{Weight: 100, Until: "duration", Within: durationpb.New(time.Millisecond), Gates: []*operatorv1.RolloutGate{manual, {Name: "ledger", Webhook: ledger.URL, Every: durationpb.New(time.Millisecond), Timeout: second}}},
		{Weight: 10000, Until: "evidence", Gates: []*operatorv1.RolloutGate{manual}},
	}}
	w.startRollout("refunds", "1.1.0", plan)
	if r := w.phase("refunds", "gated"); r.GetWeight() != 0 || r.GetStep() != 0 || !strings.Contains(r.GetWhy(), "gate sign-off, ledger before step 1") {
		t.Fatalf("it did not stop at the gates: %v", r)
	}
	notice := chat.posts(t, 1)
	approve, _ := notice["approve"].(string)
	rollback, _ := notice["rollback"].(string)
	// Looking changes nothing, and what is not ours does nothing.
	for _, link := range []string{approve, rollback} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			if status, page := visit(t, method, link); status != http.StatusOK || method == http.MethodGet && !strings.Contains(page, "<form method=\"post\">") {
				t.Errorf("%s: %d\n%s", method, status, page)
			}
		}
	}
	if status, _ := visit(t, http.MethodPost, approve[:len(approve)-3]+"AAA"); status != http.StatusNotFound {
		t.Errorf("a forged link: %d", status)
	}
	if status, _ := visit(t, http.MethodPost, strings.Replace(approve, "/gates/", "/gates/e30.", 1)); status != http.StatusNotFound {
		t.Errorf("another payload under the same signature: %d", status)
	}
	if status, page := visit(t, http.MethodPost, approve); status != http.StatusOK || !strings.Contains(page, "The gate of refunds:1.1.0 is open.") {
		t.Errorf("%d\n%s", status, page)
	}
	if status, page := visit(t, http.MethodPost, approve); status != http.StatusGone || !strings.Contains(page, "has been used") {
		t.Errorf("a second time: %d\n%s", status, page)
	}
	if status, _ := visit(t, http.MethodPost, rollback); status != http.StatusGone {
		t.Errorf("the other link of an open gate: %d", status)
	}
	// The webhook: not now, nonsense, an error and another address all leave it closed.
	bad := []func(http.ResponseWriter){
		func(w http.ResponseWriter) { fmt.Fprint(w, `{"result": "yes"}`) },
		func(w http.ResponseWriter) { http.Error(w, `{"result": "pass"}`, http.StatusBadGateway) },
		func(w http.ResponseWriter) { w.Header().Set("Location", ledger.URL); w.WriteHeader(http.StatusFound) },
		func(w http.ResponseWriter) {
			fmt.Fprint(w, `{"result": "pass", "reason": "`, strings.Repeat("x", 1<<17), `"}`)
		},
	}
	var asked atomic.Int64
	ledger.tell(func(w http.ResponseWriter) { bad[int(asked.Add(1))%len(bad)](w) })
	ledger.posts(t, ledger.count()+len(bad)+1)
	if r := w.phase("refunds", "gated"); r.GetGates()[1].GetOpen() || r.GetGates()[0].GetBy() != "link (ann <b>)" || r.GetGates()[1].GetAsked() == 0 {
		t.Fatalf("%v", r.GetGates())
	}
	if out, code := w.specctl("canary", "status", "refunds"); code != 0 || !strings.Contains(out, "gate sign-off: open, by link (ann <b>): looks fine") || !strings.Contains(out, "gate ledger: waits: ") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	ledger.say(`{"result": "pass", "reason": "closed"}`)
	// The step is short; then the next gate, at which the canary has a percent of the traffic and is judged.
	eventually(t, "gate before the second step", func() error {
		if r := w.phase("refunds", "gated"); r.GetStep() != 1 || r.GetWeight() != 100 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	if q := chat.posts(t, 2); q["approve"] == approve || q["weight"] != "1%" {
		t.Errorf("the second notice: %v", q)
	}
	worse.Store(true)
	if r := w.phase("refunds", "aborted"); !strings.Contains(r.GetWhy(), "the canary fails more often") {
		t.Errorf("why: %s", r.GetWhy())
	}
}

// A link rolls back, a webhook may say fail, and a command approves.
func TestGatesEndRollouts(t *testing.T) {
	w := startPlane(t, nil)
	canaries(t, w, map[string]int64{"1.0.0": 0, "1.1.0": 0, "1.2.0": 0})
	chat, ledger := newReceiver(t, w), newReceiver(t, w)
	plan := func(gate *operatorv1.RolloutGate) *operatorv1.RolloutPlan {
		return &operatorv1.RolloutPlan{Steps: []*operatorv1.RolloutStep{
			{Weight: 1000, Until: "duration", Within: durationpb.New(time.Millisecond)}, {Weight: 5000, Until: "manual", Gates: []*operatorv1.RolloutGate{gate}},
		}}
	}
	w.startRollout("refunds", "1.1.0", plan(&operatorv1.RolloutGate{Name: "sign-off", Manual: true, Notify: chat.URL}))
	link, _ := chat.posts(t, 1)["rollback"].(string)
	if status, page := visit(t, http.MethodPost, link); status != http.StatusOK || !strings.Contains(page, "is rolled back") {
		t.Errorf("%d\n%s", status, page)
	}
	if r := w.phase("refunds", "aborted"); !strings.Contains(r.GetWhy(), "rolled back at gate sign-off by link (ann <b>): looks fine") {
		t.Errorf("why: %s", r.GetWhy())
	}
	if status, _ := visit(t, http.MethodPost, link); status != http.StatusGone {
		t.Errorf("a second time: %d", status)
	}
	if out, code := w.specctl("postmortem", "show", "PM-1"); code != 0 || !strings.Contains(out, "rolled back at gate sign-off") {
		t.Errorf("exit %d:\n%s", code, out)
	}
	ledger.say(`{"result": "fail", "reason": "the sums differ"}`)
	w.startRollout("refunds", "1.2.0", plan(&operatorv1.RolloutGate{Name: "ledger", Webhook: ledger.URL}))
	if r := w.phase("refunds", "aborted"); r.GetWhy() != "gate ledger: the sums differ" || r.GetCanary() != "1.2.0" {
		t.Errorf("%s: %s", r.GetCanary(), r.GetWhy())
	}
	if out, code := w.specctl("canary", "approve", "refunds"); code != 1 || !strings.Contains(out, "stands at no gate that waits for a person") {
		t.Errorf("exit %d:\n%s", code, out)
	}
}
