package conformance_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/specproxy/specproxy/internal/conformance"
)

func TestReports(t *testing.T) {
	for _, x := range []struct {
		name, report, suite string
		want                conformance.Report
		passed              bool
	}{
		{
			name: "JUnit with a failure, an error and a skip",
			report: `<?xml version="1.0"?><testsuites name="refunds"><testsuite name="policy" tests="4" failures="1" errors="1">
				<testcase classname="refund" name="pays"/><testcase classname="refund" name="waits"><failure message="paid"/></testcase>
				<testcase name="parks"><error/></testcase><testcase name="later"><skipped/></testcase></testsuite></testsuites>`,
			want: conformance.Report{Suite: "refunds", MediaType: "application/xml", Tests: 4, Failures: 2, Skipped: 1, Failed: []string{"refund.waits", "parks"}},
		},
		{
			name: "JUnit that passed", report: `<testsuite name="refunds" failures="0"><testcase name="a"/></testsuite>`,
			want: conformance.Report{Suite: "refunds", MediaType: "application/xml", Tests: 1}, passed: true,
		},
		{
			name:   "JUnit whose totals are worse than its cases",
			report: `<testsuite name="refunds" errors="2"><testcase name="a"/></testsuite>`,
			want:   conformance.Report{Suite: "refunds", MediaType: "application/xml", Tests: 1, Failures: 2},
		},
		{
			name: "JSON", report: `{"suite":"refunds","tests":[{"name":"a","outcome":"passed"},{"name":"b","outcome":"skipped","why":"slow"}]}`,
			want: conformance.Report{Suite: "refunds", MediaType: "application/json", Tests: 2, Skipped: 1}, passed: true,
		},
		{
			name: "JSON with a failure, named by the caller", suite: "nightly", report: ` {"tests":[{"name":"a","outcome":"failed"}]}`,
			want: conformance.Report{Suite: "nightly", MediaType: "application/json", Tests: 1, Failures: 1, Failed: []string{"a"}},
		},
		{
			name: "everything skipped proves nothing", report: `<testsuite name="r"><testcase name="a"><skipped/></testcase></testsuite>`,
			want: conformance.Report{Suite: "r", MediaType: "application/xml", Tests: 1, Skipped: 1},
		},
	} {
		t.Run(x.name, func(t *testing.T) {
			got, err := conformance.Parse([]byte(x.report), x.suite)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Cases) != min(got.Tests, 500) {
				t.Errorf("%d cases of %d tests", len(got.Cases), got.Tests)
			}
			got.Cases = nil // counted above
			if d := cmp.Diff(x.want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
			if got.Passed() != x.passed {
				t.Errorf("passed: %v", got.Passed())
			}
		})
	}
}

func TestWhatIsNoReport(t *testing.T) {
	for name, x := range map[string]struct{ report, says string }{
		"empty":            {"", "neither JUnit XML nor JSON"},
		"text":             {"ok", "neither JUnit XML nor JSON"},
		"cut off":          {`<testsuite name="a"><testcase name="x"/>`, "unexpected EOF"},
		"cut off JSON":     {`{"suite":"a","tests":[{"name":"x","outcome":"passed"}`, "unexpected end"},
		"another document": {`<html/>`, "its root is <html>"},
		"no test":          {`<testsuite name="a"/>`, "holds no test"},
		"no name":          {`<testsuite><testcase name="x"/></testsuite>`, "does not name its suite"},
		"unknown outcome":  {`{"suite":"a","tests":[{"name":"x","outcome":"ok"}]}`, "write passed, failed or skipped"},
		"no number":        {`<testsuite name="a" failures="no"><testcase name="x"/></testsuite>`, "is no number"},
		"an entity":        {`<!DOCTYPE x [<!ENTITY a "b">]><testsuite name="a"><testcase name="&a;"/></testsuite>`, "entity"},
		"too deep":         {strings.Repeat(`<testsuite name="a">`, 40) + strings.Repeat(`</testsuite>`, 40), "nested deeper"},
		"nested cases":     {`<testsuite name="a"><testcase name="x"><testcase name="y"/></testcase></testsuite>`, "lies in another"},
	} {
		if got, err := conformance.Parse([]byte(x.report), ""); err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v, %v; want an error with %q", name, got, err, x.says)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`<testsuites name="r"><testsuite><testcase name="a"><failure/></testcase></testsuite></testsuites>`))
	f.Add([]byte(`{"suite":"a","tests":[{"name":"x","outcome":"passed"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := conformance.Parse(data, "")
		if err != nil {
			return
		}
		if r.Tests < 1 || r.Skipped > r.Tests || r.Suite == "" || r.Passed() && len(r.Failed) > 0 {
			t.Errorf("%q gives %+v", data, r)
		}
	})
}
