package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/capture"
)

// capturing lets the rig's proxy capture what rules say.
func (r *rig) capturing(rules capture.Rules) *capture.Keeper {
	r.t.Helper()
	redactor, err := capture.New(rules)
	if err != nil {
		r.t.Fatal(err)
	}
	r.proxy.Captures = capture.NewKeeper(redactor)
	return r.proxy.Captures
}

func TestFailingExecutionsAreCaptured(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %v", http2), func(t *testing.T) {
			r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				h := w.Header()
				h.Set("Content-Type", "application/json")
				switch r.URL.Path {
				case "/stated":
					h.Set("X-Spec-Outcome", `failure; reason="over the limit"`)
				case "/broken":
					w.WriteHeader(http.StatusInternalServerError)
				case "/long":
					h.Set("X-Spec-Outcome", "failure")
					_, _ = io.WriteString(w, `"`+strings.Repeat("x", 3*capture.Window)+`"`)
					return
				}
				_, _ = io.WriteString(w, `{"customer":"Ada","answer":"no"}`)
			}))
			k := r.capturing(capture.Rules{Request: 100, Response: 100, Redact: []capture.Rule{{Field: "customer"}}})
			c := client(t, http2)
			send := func(path, body string) capture.Excerpt {
				t.Helper()
				req, err := http.NewRequest(http.MethodPost, "http://"+r.addr+path, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Authorization", "Bearer token-of-ada")
				req.Header.Set("Cookie", "session=of-ada")
				res, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					t.Fatal(err)
				}
				row := <-r.ended
				got, ok := k.Excerpt(row.ID)
				if failed := row.Outcome == "failure"; ok != failed {
					t.Fatalf("%s: failed %v, captured %v", path, failed, ok)
				}
				if all := fmt.Sprint(got); strings.Contains(all, "Ada") || strings.Contains(all, "of-ada") {
					t.Errorf("%s: captured %s", path, all)
				}
				return got
			}
			answer := capture.Part{Text: `{"customer":"[redacted]","answer":"no"}`}
			if got, want := send("/stated", `{"customer":"Ada","amount":4}`), (capture.Excerpt{Request: capture.Part{Text: `{"customer":"[redacted]","amount":4}`}, Response: answer}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if got, want := send("/broken", ""), (capture.Excerpt{Request: capture.Part{Missing: "it was empty"}, Response: answer}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if got := send("/long", strings.Repeat(" ", 2*capture.Window)+`{"customer":"Ada"}`); got.Request.Missing == "" || got.Response.Missing == "" {
				t.Errorf("what cannot be read whole was captured: %+v", got)
			}
			if got := send("/well", `{"customer":"Ada"}`); got != (capture.Excerpt{}) {
				t.Errorf("what did not fail was captured: %+v", got)
			}
		})
	}
}

// TestCapturingDelaysNoStream: each event is with the client before the agent writes the next.
func TestCapturingDelaysNoStream(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %v", http2), func(t *testing.T) {
			seen := make(chan struct{})
			r := newRig(t, completes, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.Header().Set("X-Spec-Outcome", "failure")
				for i := range 3 {
					_, _ = fmt.Fprintf(w, "data: {\"n\":%d,\"customer\":\"Ada\"}\n\n", i)
					_ = http.NewResponseController(w).Flush()
					<-seen
				}
			}))
			k := r.capturing(capture.Rules{Response: 1000, Redact: []capture.Rule{{Field: "customer"}}})
			res, err := client(t, http2).Get("http://" + r.addr + "/events")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			lines := bufio.NewScanner(res.Body)
			for lines.Scan() {
				if lines.Text() != "" {
					seen <- struct{}{}
				}
			}
			row := <-r.ended
			got, _ := k.Excerpt(row.ID)
			want := `data:{"n":0,"customer":"[redacted]"}` + "\n\n" + `data:{"n":1,"customer":"[redacted]"}` + "\n\n" + `data:{"n":2,"customer":"[redacted]"}` + "\n\n"
			if got.Response.Text != want {
				t.Errorf("got %+v, want %q", got.Response, want)
			}
		})
	}
}
