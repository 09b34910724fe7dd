package journal_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/sidecar/journal"
)

var start = time.Date(2026, 11, 24, 14, 0, 0, 0, time.UTC)

func execution(n int) journal.Execution {
	return journal.Execution{ID: fmt.Sprint("x", n), Key: "k", Method: "POST", Path: "/refund", StartedAt: start, RouteGeneration: 3, HandedOverFrom: "x1.before"}
}

func act(n int) drain.Act {
	return drain.Act{Tool: "refund.issue", Class: drain.EffectsIrreversible, Key: fmt.Sprint("r", n), At: start.Add(time.Duration(n) * time.Second)}
}

type fataler interface {
	Helper()
	Fatal(...any)
}

func open(t fataler, path string) (*journal.Journal, []journal.Execution, int) {
	t.Helper()
	j, left, damaged, err := journal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return j, left, damaged
}

// The journal is closed by nobody when a process dies: every Open here follows a crash.
func TestSurvivesACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, left, damaged := open(t, path)
	if len(left) != 0 || damaged != 0 {
		t.Fatalf("a new journal has %v, %d", left, damaged)
	}
	for n, x := range []journal.Execution{execution(1), execution(2), execution(1)} {
		if err := j.Grant(x, act(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.End("x2"); err != nil {
		t.Fatal(err)
	}
	if err := j.End("never granted anything"); err != nil {
		t.Fatal(err)
	}
	want := execution(1)
	want.Acts = []drain.Act{act(0), act(2)}
	for range 2 { // it is still there until its end is told
		next, left, damaged := open(t, path)
		if diff := cmp.Diff([]journal.Execution{want}, left); diff != "" || damaged != 0 {
			t.Fatalf("damaged %d, %s", damaged, diff)
		}
		j = next
	}
	if err := j.End("x1"); err != nil {
		t.Fatal(err)
	}
	if _, left, _ := open(t, path); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestATornOrDamagedLineCostsThatLineAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, _ := open(t, path)
	for n := range 3 {
		if err := j.Grant(execution(n), act(n)); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	damaged := slices.Clone(lines[1])
	damaged[20] ^= 1
	for name, c := range map[string]struct {
		content []byte
		left    int
		damaged int
	}{
		"torn at the end":        {whole[:len(whole)-10], 2, 1},
		"a bit in the middle":    {slices.Concat(lines[0], damaged, lines[2]), 2, 1},
		"nothing but the header": {[]byte("0"), 0, 1},
		"empty":                  {nil, 0, 0},
		"zeroes after the end":   {append(slices.Clone(whole), make([]byte, 512)...), 3, 1},
	} {
		if err := os.WriteFile(path, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, left, bad := open(t, path); len(left) != c.left || bad != c.damaged {
			t.Errorf("%s: %d executions, %d damaged lines", name, len(left), bad)
		}
	}
}

func TestManyGrantsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, _ := open(t, path)
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			if err := j.Grant(execution(n), act(n)); err != nil {
				t.Error(err)
			}
			if n%2 == 0 {
				if err := j.End(execution(n).ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if _, left, _ := open(t, path); len(left) != 100 {
		t.Errorf("%d left", len(left))
	}
}

func TestDoesNotGrowForEver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, _ := open(t, path)
	if err := j.Grant(execution(-1), act(0)); err != nil {
		t.Fatal(err)
	}
	large := act(1)
	large.Compensation = strings.Repeat("x", 512<<10)
	for n := range 40 { // 20 MiB
		if err := j.Grant(execution(n), large); err != nil {
			t.Fatal(err)
		}
		if err := j.End(execution(n).ID); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > 6<<20 {
		t.Errorf("size %d, %v", info.Size(), err)
	}
	if _, left, _ := open(t, path); len(left) != 1 || left[0].ID != "x-1" {
		t.Errorf("left %d", len(left))
	}
}

func TestAnActTooLargeIsRefusedAloneAndAClosedJournalRefusesAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, _ := open(t, path)
	large := act(1)
	large.Key = strings.Repeat("x", 2<<20)
	if err := j.Grant(execution(1), large); err == nil {
		t.Error("2 MiB are journalled")
	}
	if err := j.Grant(execution(1), act(1)); err != nil {
		t.Error(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Grant(execution(2), act(2)); err == nil {
		t.Error("a closed journal grants")
	}
	if _, left, _ := open(t, path); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// Against the trivial model: a map.
func TestIsAMapThatSurvives(t *testing.T) {
	dir := t.TempDir()
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		path := filepath.Join(dir, fmt.Sprint(round))
		j, _, _ := open(t, path)
		model := map[string]int{}
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"grant": func(t *rapid.T) {
				x := execution(rapid.IntRange(0, 4).Draw(t, "x"))
				n++
				if err := j.Grant(x, act(n)); err != nil {
					t.Fatal(err)
				}
				model[x.ID]++
			},
			"end": func(t *rapid.T) {
				id := execution(rapid.IntRange(0, 4).Draw(t, "x")).ID
				if err := j.End(id); err != nil {
					t.Fatal(err)
				}
				delete(model, id)
			},
			"crash": func(t *rapid.T) {
				next, left, damaged := open(t, path)
				j = next
				got := map[string]int{}
				for _, x := range left {
					got[x.ID] = len(x.Acts)
				}
				if diff := cmp.Diff(model, got); diff != "" || damaged != 0 {
					t.Fatal(diff, damaged)
				}
			},
		})
	})
}

// An execution that ended is there, with how it did, until somebody has been told.
func TestEndsAreKeptUntilTheyAreTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, _ := open(t, path)
	for n := range 2 {
		if err := j.Grant(execution(n), act(n)); err != nil {
			t.Fatal(err)
		}
	}
	ended := journal.Ended{ID: "x1", At: start.Add(time.Minute), Outcome: drain.Success, Status: 200, Disposition: drain.Complete, Why: "default: complete"}
	if err := j.Finish(ended); err != nil {
		t.Fatal(err)
	}
	if err := j.Finish(journal.Ended{ID: "never granted anything"}); err != nil {
		t.Fatal(err)
	}
	died, told := execution(0), execution(1)
	died.Acts, told.Acts, told.Ended = []drain.Act{act(0)}, []drain.Act{act(1)}, &ended
	for range 2 {
		next, left, damaged := open(t, path)
		if diff := cmp.Diff([]journal.Execution{died, told}, left); diff != "" || damaged != 0 {
			t.Fatalf("damaged %d, %s", damaged, diff)
		}
		j = next
	}
	if err := j.End("x1"); err != nil {
		t.Fatal(err)
	}
	if _, left, _ := open(t, path); len(left) != 1 || left[0].ID != "x0" {
		t.Errorf("after it was told: %v", left)
	}
}
