package telemetry_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestEveryMetricIsDocumentedAndAlertsNameOnlySuch reads the names from the source.
func TestEveryMetricIsDocumentedAndAlertsNameOnlySuch(t *testing.T) {
	var exported []string
	name := regexp.MustCompile(`"(specproxy_[a-z0-9_]+)"`)
	err := filepath.WalkDir("..", func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if strings.Contains(string(source), "prometheus/client_golang") {
			for _, m := range name.FindAllStringSubmatch(string(source), -1) {
				exported = append(exported, m[1])
			}
		}
		return err
	})
	if err != nil || len(exported) < 20 {
		t.Fatalf("found %d metrics, %v", len(exported), err)
	}
	docs, err := os.ReadFile("../../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range exported {
		if !strings.Contains(string(docs), "`"+m) {
			t.Errorf("docs/observability.md says nothing of %s", m)
		}
	}
	raw, err := os.ReadFile("../../docs/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var alerts struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(raw, &alerts); err != nil || len(alerts.Groups) == 0 {
		t.Fatalf("docs/alerts.yaml: %v", err)
	}
	for _, rule := range alerts.Groups[0].Rules {
		used := regexp.MustCompile(`specproxy_[a-z0-9_]+`).FindAllString(rule.Expr, -1)
		if rule.Alert == "" || len(used) == 0 {
			t.Errorf("alert %q watches nothing", rule.Alert)
		}
		for _, m := range used {
			if !slices.Contains(exported, strings.TrimSuffix(m, "_bucket")) {
				t.Errorf("alert %s: there is no metric %s", rule.Alert, m)
			}
		}
	}
}
