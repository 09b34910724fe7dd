package drain_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutants are faults put into the production source, one at a time. The fleet simulation must notice each: else it would not notice the same
// fault made by mistake.
var mutants = []struct {
	name, file string
	// old is in the file exactly once; it is replaced by new.
	old, new string
}{
	{
		"a cancel races the guard: whether the execution was cut is looked at only before the journal", "execution.go",
		"	err := e.refuses()\n	if err == nil && failed != nil {", "	var err error\n	if failed != nil {",
	},
	{
		"the first byte may leave although the execution was cut", "execution.go",
		"	if e.cut() {\n		return ErrRefused{Decision: *e.decision}\n	}\n	if !e.responded {", "	if !e.responded {",
	},
	{
		"the first exchange that ends ends the execution", "execution.go",
		"	if e.open > 0 {", "	if false {",
	},
	{
		"a cancel overlooks what cannot be undone", "decide.go",
		"		if effects == EffectsIrreversible {\n			d.Why += \"cancel, but \"", "		if false {\n			d.Why += \"cancel, but \"",
	},
	{
		"work is handed over a second time", "decide.go",
		"	case x.HandedOver:\n", "	case false:\n",
	},
	{
		"work is handed over after its first byte", "decide.go",
		"	case x.Responded:\n", "	case false:\n",
	},
	{
		"a deadline cuts what cannot be undone", "order.go",
		"	if d.Then == Cancel && d.Effects != EffectsIrreversible {", "	if d.Then == Cancel {",
	},
	{
		"a newer order decides again over what was cut", "order.go",
		"	if !e.ended.IsZero() || e.decision != nil && !e.void {", "	if !e.ended.IsZero() {",
	},
	{
		"deadlines are forgotten", "order.go",
		"		*due = append(*due, deadline{d.Deadline, e})", "		_ = due",
	},
	{
		"new work is admitted under the fence", "ledger.go",
		"	if fence := l.fence.Load(); fence != nil {\n		order := *fence\n		return nil, &order\n	}\n	e := newEntry", "	e := newEntry",
	},
	{
		"one shard of the ledger is forgotten", "ledger.go",
		"	var all []*entry\n	for i := range l.shards {", "	var all []*entry\n	for i := range l.shards[1:] {",
	},
	{
		"silence is taken for idleness", "transitions.go",
		"	case acknowledged < instances:\n		return nil\n", "",
	},
}

func TestMutantsAreCaught(t *testing.T) {
	t.Parallel()
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			original, err := filepath.Abs(m.file)
			if err != nil {
				t.Fatal(err)
			}
			source, err := os.ReadFile(original)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(source), m.old); n != 1 {
				t.Fatalf("%s has the mutated part %d times, want once: bring the mutant up to date\n%s", m.file, n, m.old)
			}
			changed := filepath.Join(t.TempDir(), m.file)
			if err := os.WriteFile(changed, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: changed}})
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "overlay.json")
			if err := os.WriteFile(file, overlay, 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-ldflags=-s -w", "-count=1", "-timeout", "3m", "-overlay", file, "-run", "^TestFleetSimulation$", ".")
			out, err := cmd.CombinedOutput()
			text := string(out)
			// It must be the simulation that fails, by an invariant of its own and not by a panic or because nothing was built.
			if err == nil || !strings.Contains(text, "--- FAIL: TestFleetSimulation") || !strings.Contains(text, "again with FLEET_SEED") || strings.Contains(text, "panic:") {
				t.Fatalf("it is not caught: %v\n%s", err, text[max(0, len(text)-2000):])
			}
		})
	}
}
