package notify_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/notify"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
)

const (
	patience = time.Minute
	secret   = "0123456789abcdef0123456789abcdef"
)

// receiver is a real HTTP server. Each request is answered by the next of its answers, once they are used up by 204.
type receiver struct {
	t      *testing.T
	server *httptest.Server
	gone   chan struct{}

	mu      sync.Mutex
	answers []http.HandlerFunc
	got     []received
}

type received struct {
	header http.Header
	body   []byte
}

func (r received) id() string { return r.header.Get("Webhook-Id") }

func startReceiver(t *testing.T, answers ...http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{t: t, answers: answers, gone: make(chan struct{})}
	r.server = httptest.NewServer(r)
	t.Cleanup(func() {
		close(r.gone)
		r.server.Close()
	})
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	r.mu.Lock()
	r.got = append(r.got, received{req.Header.Clone(), body})
	answer := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	if len(r.answers) > 0 {
		answer, r.answers = r.answers[0], r.answers[1:]
	}
	r.mu.Unlock()
	answer(w, req)
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// await waits until n requests have come, and returns all.
func (r *receiver) await(n int) []received {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		all := r.all()
		if len(all) >= n {
			return all
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d requests came within %s, want %d", len(all), patience, n)
		}
		tick := time.NewTimer(5 * time.Millisecond)
		<-tick.C
	}
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		fmt.Fprint(w, "not today")
	}
}

// hang answers nothing until the sender has gone.
func (r *receiver) hang(_ http.ResponseWriter, req *http.Request) {
	select {
	case <-req.Context().Done():
	case <-r.gone:
	}
}

func drop(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

// half sends the beginning of an answer that never ends well.
func half(w http.ResponseWriter, _ *http.Request) {
	conn, out, err := w.(http.Hijacker).Hijack()
	if err == nil {
		fmt.Fprint(out, "HTTP/1.1 200 O")
		_ = out.Flush()
		conn.Close()
	}
}

func config(t *testing.T, text string) *notify.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "webhooks.yaml")
	write(t, file, text)
	c, err := notify.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// lead runs a sender until stop is called.
func lead(t *testing.T, s *store.Store, c *notify.Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	sender := notify.New(notify.Options{
		Store: s, Config: c, Log: zap.NewNop(), First: time.Millisecond, Most: 20 * time.Millisecond, Timeout: 300 * time.Millisecond, Look: 20 * time.Millisecond,
	})
	go func() {
		defer close(done)
		_ = sender.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	for _, r := range c.Receivers { // it is told of what comes after this
		deadline := time.Now().Add(patience)
		for _, ok := s.View().Webhook(r.Name); !ok; _, ok = s.View().Webhook(r.Name) {
			if time.Now().After(deadline) {
				t.Fatalf("%s was not begun within %s", r.Name, patience)
			}
			tick := time.NewTimer(time.Millisecond)
			<-tick.C
		}
	}
	return stop
}

func say(t *testing.T, s *store.Store, record, actor string, facts ...postmortem.Fact) {
	t.Helper()
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		for _, f := range facts {
			tx.AppendPostMortem(record, time.Now().UTC(), actor, f)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func opened(reason string) postmortem.Opened {
	return postmortem.Opened{Specs: []string{"shop"}, Reason: reason, Rollbacks: []postmortem.Rollback{{
		Spec: "shop", Generation: 3, Command: "rollback", Target: "2.0.0", Digest: "sha256:aa", Abandoned: []postmortem.Abandoned{{Version: "2.1.0", Digest: "sha256:bb"}},
	}}}
}

// read checks what every message has: the signature over its bytes, and that others read it as a CloudEvent.
func (r received) read(t *testing.T) event.Event {
	t.Helper()
	seconds, err := strconv.ParseInt(r.header.Get("Webhook-Timestamp"), 10, 64)
	if err != nil {
		t.Fatalf("timestamp: %v", err)
	}
	if want := notify.Sign([][]byte{[]byte(secret)}, r.id(), time.Unix(seconds, 0), r.body); r.header.Get("Webhook-Signature") != want {
		t.Errorf("signature %q, want %q", r.header.Get("Webhook-Signature"), want)
	}
	e, err := cehttp.NewEventFromHTTPRequest(&http.Request{Header: r.header, Body: io.NopCloser(bytes.NewReader(r.body))})
	if err != nil {
		t.Fatalf("no CloudEvent: %v\n%s", err, r.body)
	}
	if err := e.Validate(); err != nil {
		t.Errorf("no valid CloudEvent: %v\n%s", err, r.body)
	}
	if e.ID() != r.id() || e.Source() != "https://xds.test" {
		t.Errorf("id %s of source %s, Webhook-Id %s", e.ID(), e.Source(), r.id())
	}
	return *e
}

func kinds(t *testing.T, got []received) string {
	t.Helper()
	var all []string
	for _, g := range got {
		var m notify.Message
		if err := json.Unmarshal(g.body, &m); err != nil {
			t.Fatalf("%v: %s", err, g.body)
		}
		all = append(all, strings.TrimPrefix(m.Type, "io.github.specproxy."))
	}
	return strings.Join(all, " ")
}

func one(t *testing.T, r *receiver, more string) *notify.Config {
	t.Helper()
	t.Setenv("WEBHOOK_SECRET", secret)
	return config(t, "source: https://xds.test\nwebhooks:\n- name: desk\n  url: "+r.server.URL+"\n  secret: {env: WEBHOOK_SECRET}\n"+more)
}

func TestFailingReceiverIsTriedAgainUnderOneID(t *testing.T) {
	r := startReceiver(t)
	r.answers = []http.HandlerFunc{
		status(500), r.hang, drop, half, status(429, "Retry-After", "1"), status(302, "Location", "/elsewhere"), status(401), status(503, "Retry-After", "soon"),
	}
	failing := len(r.answers)
	s := openStore(t)
	lead(t, s, one(t, r, ""))
	before := time.Now()
	say(t, s, "PM-1", "ada", opened("refuses refunds"))
	say(t, s, "PM-1", "bob", postmortem.Assigned{Owner: "bob", Due: time.Now().Add(time.Hour)}, postmortem.Answered{Question: postmortem.WhyCanary, Text: "there was none"})
	say(t, s, "PM-1", "bob", postmortem.Override{Version: "2.1.0", Reason: "we must"}, postmortem.Closed{Cause: postmortem.SpecError, Note: "done"}, postmortem.Reopened{Reason: "again"})
	got := r.await(failing + 7)
	for _, g := range got[:failing+1] {
		if g.id() != got[0].id() || !bytes.Equal(g.body, got[0].body) {
			t.Errorf("an attempt has id %s, the first had %s", g.id(), got[0].id())
		}
		g.read(t)
	}
	if time.Since(before) < time.Second {
		t.Error("a receiver that asked for a second was not given it")
	}
	ids := map[string]bool{}
	for _, g := range got[failing:] {
		if ids[g.id()] {
			t.Errorf("%s was delivered twice", g.id())
		}
		ids[g.id()] = true
		g.read(t)
	}
	want := "rollback postmortem.opened postmortem.assigned postmortem.answered postmortem.overridden postmortem.closed postmortem.reopened"
	if k := kinds(t, got[failing:]); k != want {
		t.Errorf("told %s, want %s", k, want)
	}
	var data notify.Data
	if e := got[0].read(t); e.DataAs(&data) != nil || data.Record != "PM-1" || data.Text != "refuses refunds" || len(data.Moves) != 1 || data.Moves[0].To != "2.0.0" ||
		data.Head.Seq != 1 || data.Head.Link == "" || e.Subject() != "PM-1" {
		t.Errorf("data %+v", data)
	}
}

func TestHangingReceiverHoldsNobodyUp(t *testing.T) {
	bad, good := startReceiver(t), startReceiver(t)
	bad.answers = slices.Repeat([]http.HandlerFunc{bad.hang}, 1000)
	s := openStore(t)
	t.Setenv("WEBHOOK_SECRET", secret)
	lead(t, s, config(t, "source: https://xds.test\nwebhooks:\n- {name: bad, url: "+bad.server.URL+", secret: {env: WEBHOOK_SECRET}}\n- {name: good, url: "+good.server.URL+", secret: {env: WEBHOOK_SECRET}}\n"))
	say(t, s, "PM-1", "ada", opened("one"))
	bad.await(1)
	say(t, s, "PM-2", "ada", opened("two"))
	if k := kinds(t, good.await(4)); k != "rollback postmortem.opened rollback postmortem.opened" {
		t.Errorf("the other was told %s", k)
	}
	for _, b := range bad.await(3) {
		if b.id() != bad.all()[0].id() {
			t.Errorf("the hanging one was sent %s after %s", b.id(), bad.all()[0].id())
		}
	}
}

func TestNextLeaderGoesOn(t *testing.T) {
	r := startReceiver(t)
	r.answers = append([]http.HandlerFunc{status(200)}, slices.Repeat([]http.HandlerFunc{r.hang}, 1000)...)
	s := openStore(t)
	c := one(t, r, "")
	stop := lead(t, s, c)
	say(t, s, "PM-1", "ada", opened("one"))
	before := r.await(2) // the second hangs
	stop()
	say(t, s, "PM-2", "ada", opened("while nobody led"))
	r.mu.Lock()
	r.answers, r.got = nil, nil
	r.mu.Unlock()
	lead(t, s, c)
	got := r.await(3)
	if k := kinds(t, got); k != "postmortem.opened rollback postmortem.opened" || got[0].id() != before[1].id() {
		t.Errorf("told %s, first %s; before %s and %s", k, got[0].id(), before[0].id(), before[1].id())
	}
}

func TestRefusedMessageDoesNotHoldUpTheNext(t *testing.T) {
	r := startReceiver(t, status(422), status(409))
	s := openStore(t)
	lead(t, s, one(t, r, "  events: [\"postmortem.*\"]\n"))
	say(t, s, "PM-1", "ada", opened("one"), postmortem.Answered{Question: postmortem.WhyCanary, Text: "x"}, postmortem.Closed{Cause: postmortem.SpecError, Note: "done"})
	if k := kinds(t, r.await(3)); k != "postmortem.opened postmortem.answered postmortem.closed" {
		t.Errorf("told %s", k)
	}
}

func TestOverdueAndHeadAreToldOnce(t *testing.T) {
	r := startReceiver(t)
	s := openStore(t)
	stop := lead(t, s, one(t, r, "  events: [postmortem.overdue, chain.head]\n  specs: [shop]\n"))
	late := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	say(t, s, "PM-1", "ada", opened("one"), postmortem.Assigned{Owner: "bob", Due: late}, postmortem.Acted{Action: postmortem.Action{ID: "A1", What: "a case", Owner: "eve", Due: late}})
	got := r.await(3)
	var ids []string
	for _, g := range got {
		ids = append(ids, g.id())
	}
	head := s.View().ChainHead()
	want := []string{fmt.Sprintf("PM-1-overdue-%d", late.Unix()), fmt.Sprintf("PM-1-A1-overdue-%d", late.Unix()), fmt.Sprintf("head-%d-%s", head.Seq, head.Link[:12])}
	if slices.Sort(ids); !slices.Equal(ids, slices.Sorted(slices.Values(want))) {
		t.Errorf("told %v, want %v", ids, want)
	}
	stop()
	lead(t, s, one(t, r, "  events: [postmortem.overdue]\n"))
	say(t, s, "PM-1", "ada", postmortem.Assigned{Owner: "eve", Due: late.Add(time.Minute)}) // another due date, missed too
	if got := r.await(4); len(got) != 4 || got[3].id() != fmt.Sprintf("PM-1-overdue-%d", late.Add(time.Minute).Unix()) {
		t.Errorf("then %d messages, the last %s", len(got), got[len(got)-1].id())
	}
}

func TestFormats(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "item.tmpl"), `{"title": {{json .Data.Summary}}, "key": "{{.Data.Record}}", "from": "{{range .Data.Moves}}{{join .From ","}}{{end}}"}`)
	slack, tracker, custom := startReceiver(t), startReceiver(t), startReceiver(t)
	s := openStore(t)
	t.Setenv("WEBHOOK_SECRET", secret)
	write(t, filepath.Join(dir, "token"), "Bearer abc\n")
	file := filepath.Join(dir, "webhooks.yaml")
	write(t, file, fmt.Sprintf(`webhooks:
- {name: chat, url: %s, format: slack, events: [rollback]}
- {name: tracker, url: %s, format: tracker, secret: {env: WEBHOOK_SECRET}, events: [postmortem.opened], headers: {Authorization: {file: %s}}}
- {name: custom, url: %s, format: template, template: item.tmpl, secret: {env: WEBHOOK_SECRET}, events: [postmortem.opened]}
`, slack.server.URL, tracker.server.URL, filepath.Join(dir, "token"), custom.server.URL))
	c, err := notify.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	lead(t, s, c)
	say(t, s, "PM-1", "ada", opened("<!channel> & all"))
	if body := string(slack.await(1)[0].body); !strings.Contains(body, `&lt;!channel&gt; &amp; all`) && !strings.Contains(body, `\u0026lt;!channel\u0026gt; \u0026amp; all`) || !strings.Contains(body, `"text":"shop was rolled back by ada`) {
		t.Errorf("Slack is told %s", body)
	}
	got := tracker.await(1)[0]
	var item struct {
		Title, Body, ExternalID string
		Labels                  []string
	}
	if err := json.Unmarshal(got.body, &item); err != nil || item.Title != "PM-1 is open: why was shop rolled back?" || !slices.Equal(item.Labels, []string{"post-mortem", "shop"}) ||
		!strings.Contains(item.Body, "* shop: 2.1.0 → 2.0.0, generation 3, by `rollback`") || item.ExternalID != "PM-1" || got.header.Get("Authorization") != "Bearer abc" {
		t.Errorf("the tracker is told %s with %v: %v", got.body, got.header, err)
	}
	if body := string(custom.await(1)[0].body); body != `{"title": "PM-1 is open: why was shop rolled back?", "key": "PM-1", "from": "2.1.0"}` {
		t.Errorf("the template makes %s", body)
	}
}

func TestBothSecretsOfARotationSign(t *testing.T) {
	r := startReceiver(t)
	file := filepath.Join(t.TempDir(), "secret")
	write(t, file, "whsec_bmV3LXNlY3JldC1uZXctc2VjcmV0LW5ldy1zZWNyZXQ=\n"+secret+"\n")
	s := openStore(t)
	lead(t, s, config(t, "webhooks: [{name: desk, url: "+r.server.URL+", secret: {file: "+file+"}}]"))
	say(t, s, "PM-1", "ada", opened("one"))
	got := r.await(1)[0]
	seconds, err := strconv.ParseInt(got.header.Get("Webhook-Timestamp"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	want := notify.Sign([][]byte{[]byte("new-secret-new-secret-new-secret"), []byte(secret)}, got.id(), time.Unix(seconds, 0), got.body)
	if got.header.Get("Webhook-Signature") != want || strings.Count(want, "v1,") != 2 {
		t.Errorf("signature %q, want %q", got.header.Get("Webhook-Signature"), want)
	}
}

// TestSignatureIsThatOfStandardWebhooks checks the example of that specification's own documentation.
func TestSignatureIsThatOfStandardWebhooks(t *testing.T) {
	key, err := base64.StdEncoding.DecodeString("plJ3nmyCDGBKInavdOK15jsl")
	if err != nil {
		t.Fatal(err)
	}
	got := notify.Sign([][]byte{key}, "msg_loFOjxBNrRLzqYUf", time.Unix(1731705121, 0), []byte(`{"event_type":"ping","data":{"success":true}}`))
	if want := "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="; got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Setenv("WEBHOOK_SECRET", secret)
	t.Setenv("WEBHOOK_SHORT", "short")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "text.tmpl"), "{{.Data.Summary}}")
	write(t, filepath.Join(dir, "wrong.tmpl"), "{{.Data.Nothing}}")
	for text, want := range map[string]string{
		"":             "EOF",
		"webhooks: []": "names no receiver",
		"webhooks: [{name: a, url: 'https://h', secret: {env: WEBHOOK_SECRET}, colour: red}]":                                                      "colour",
		"webhooks: [{name: A B, url: 'https://h', secret: {env: WEBHOOK_SECRET}}]":                                                                 "lower-case",
		"webhooks: [{name: a, url: 'ftp://h', secret: {env: WEBHOOK_SECRET}}]":                                                                     "not http:// or https://",
		"webhooks: [{name: a, url: 'http://example.com/x', secret: {env: WEBHOOK_SECRET}}]":                                                        "beyond loopback",
		"webhooks: [{name: a, url: 'https://h'}]":                                                                                                  "needs a secret",
		"webhooks: [{name: a, url: 'https://h', secret: abc}]":                                                                                     "must not be able to sign",
		"webhooks: [{name: a, url: 'https://h', secret: {env: WEBHOOK_NONE}}]":                                                                     "no WEBHOOK_NONE",
		"webhooks: [{name: a, url: 'https://h', secret: {env: WEBHOOK_SHORT}}]":                                                                    "at least 24",
		"webhooks: [{name: a, url: 'https://h', secret: {env: A, file: B}}]":                                                                       "not both",
		"webhooks: [{name: a, url: 'https://h', secret: {env: WEBHOOK_SECRET}, events: [rollbacks]}]":                                              `event "rollbacks" is not one of`,
		"webhooks: [{name: a, url: 'https://h', secret: {env: WEBHOOK_SECRET}, format: xml}]":                                                      `format "xml"`,
		"webhooks: [{name: a, url: 'https://h', secret: {env: WEBHOOK_SECRET}, format: template}]":                                                 "go together",
		"webhooks: [{name: a, url: 'https://h', secret: {env: WEBHOOK_SECRET}, headers: {'a b': c}}]":                                              "no name of a header",
		"webhooks: [{name: a, url: 'https://h', secret: {env: WEBHOOK_SECRET}, format: template, template: text.tmpl}]":                            "makes no JSON",
		"webhooks: [{name: a, url: 'https://h', secret: {env: WEBHOOK_SECRET}, format: template, template: wrong.tmpl}]":                           "Nothing",
		"webhooks: [{name: a, url: 'https://h', secret: {env: WEBHOOK_SECRET}}, {name: a, url: 'https://i', secret: {env: WEBHOOK_SECRET}}]":       "two webhooks are named a",
		"webhooks: [{name: a, url: 'https://h', secret: {env: WEBHOOK_SECRET}, format: template, template: text.tmpl, contentType: text/plain}]\n": "",
	} {
		file := filepath.Join(dir, "webhooks.yaml")
		write(t, file, text)
		_, err := notify.Load(file)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
