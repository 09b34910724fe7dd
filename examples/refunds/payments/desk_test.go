package main

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

func TestEveryCallIsLedgered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.jsonl")
	log, err := refund.OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server := httptest.NewServer(newDesk(log, 1))
	defer server.Close()

	for _, c := range []struct {
		body   string
		status int
	}{
		{`{"refund_id":"a","customer":"c-0001","amount_cents":1200,"execution_id":"x1","instance":"i"}`, 200},
		{`{"refund_id":"a","customer":"c-0001","amount_cents":1200,"execution_id":"x2","instance":"i"}`, 200},
		{`{"refund_id":"b","customer":"c-0107","amount_cents":900}`, 422},
		{`{"customer":"c-0001"}`, 400},
		{`not JSON`, 400},
	} {
		response, err := http.Post(server.URL+"/payments", "application/json", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != c.status {
			t.Errorf("%s: answered %d, want %d", c.body, response.StatusCode, c.status)
		}
	}
	lines, err := refund.ReadLog[refund.LedgerLine](path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range lines {
		got = append(got, l.RefundID+" "+l.ExecutionID+" "+l.Result)
	}
	if want := "a x1 paid,a x2 paid,b  refused"; strings.Join(got, ",") != want {
		t.Errorf("ledger is %q, want %q", strings.Join(got, ","), want)
	}
}
