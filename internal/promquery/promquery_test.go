package promquery_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/promquery"
)

// Answers as Prometheus 3 gives them; the real one is asked in internal/e2e.
func TestOnlyANumberIsANumber(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	told := func(key, text string) string {
		return fmt.Sprintf(`{"status":"success","data":{"resultType":"scalar","result":[1,"0.25"]},%q:[%q]}`, key, text)
	}
	vector := func(values ...string) string {
		var out []string
		for _, v := range values {
			out = append(out, fmt.Sprintf(`{"metric":{},"value":[1,%q]}`, v))
		}
		return `{"status":"success","data":{"resultType":"vector","result":[` + strings.Join(out, ",") + `]}}`
	}
	answers := map[string]string{
		"scalar": `{"status":"success","data":{"resultType":"scalar","result":[1,"0.25"]}}`, "one": vector("0.5"), "none": vector(), "two": vector("1", "2"),
		"matrix": `{"status":"success","data":{"resultType":"matrix","result":[]}}`, "string": `{"status":"success","data":{"resultType":"string","result":[1,"x"]}}`,
		"wrong": `{"status":"error","errorType":"bad_data","error":"parse error: unexpected end"}`, "garbage": `<html>`, "empty": ``, "NaN": vector("NaN"), "Inf": vector("+Inf"),
		"histogram": `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"histogram":[1,{"count":"3","sum":"4","buckets":[[0,"0","1","3"]]}]}]}}`,
		"partial":   told("warnings", "one store did not answer"),
		"style":     told("infos", `PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: "cost" (1:5)`),
		"aggregate": told("infos", "PromQL info: ignored histogram in max aggregation (1:1)"),
		"operator":  told("infos", `PromQL info: incompatible sample types encountered for binary operator "+": float + histogram (1:1)`),
		"fraction":  told("infos", "PromQL info: input to histogram_fraction has NaN observations, which are excluded from all fractions (1:1)"),
		"many":      told("infos", "3 more info annotations omitted"),
		"endless":   strings.Repeat(" ", 1<<20) + vector("1"),
	}
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer secret" {
			t.Errorf("authorization %q", got)
		}
		if r.URL.Path == "/elsewhere" {
			t.Error("a redirect is followed, with the token")
		}
		query := r.FormValue("query")
		switch query {
		case "hang":
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		case "denied":
			w.WriteHeader(http.StatusUnauthorized)
		case "moved":
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		case "wrong":
			w.WriteHeader(http.StatusBadRequest)
		}
		fmt.Fprint(w, answers[query])
	}))
	defer server.Close()
	defer close(hang)
	c, err := promquery.New(server.URL, token)
	if err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		"scalar": "0.25", "one": "0.5", "NaN": "NaN", "none": "the query gives nothing", "two": "gives 2 numbers, not one", "matrix": "gives a matrix", "string": "unexpected value type",
		"wrong": "parse error", "garbage": "bad_response", "empty": "bad_response", "hang": "no answer in time", "denied": "401",
		"style": "0.25", "aggregate": "answers for a part only: PromQL info: ignored histogram in max", "operator": "part only", "fraction": "part only", "many": "part only",
		"Inf": "+Inf", "histogram": "gives a histogram, not a number", "partial": "warns of its answer: one store did not answer", "endless": "more than 1048576 bytes", "moved": "307",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if query == "hang" {
			ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
		}
		n, err := c.Number(ctx, query)
		cancel()
		got := fmt.Sprint(n)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) || err != nil && strings.Contains(got, server.URL) {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	server.Close()
	if _, err := c.Number(t.Context(), "one"); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody there: %v", err)
	}
	for _, server := range []string{"http://ada:hunter2@prometheus:9090", "http://ada:hunter2%zz@prometheus:9090", "ada:hunter2@prometheus:9090"} {
		if _, err := promquery.New(server, ""); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "--prometheus-token-file") {
			t.Errorf("a password in the URL: %v", err)
		}
	}
	if _, err := promquery.New("prometheus:9090", ""); err == nil {
		t.Error("an address without a scheme is taken")
	}
}
