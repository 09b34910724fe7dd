package evidence

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var at = time.Date(2026, 11, 2, 2, 18, 0, 0, time.UTC)

func rules() Rules {
	return Rules{Alpha: 0.05, Metrics: []Metric{{Name: "failure", Ceiling: 0.05}}}.Split()
}

func fresh(t testing.TB, metrics int) *State {
	t.Helper()
	s, err := NewState(metrics)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// feed gives both arms executions of which some fail, each a unit of its own.
func feed(t testing.TB, s *State, rule Metric, arm Arm, weight uint16, ended, failed int) {
	t.Helper()
	if err := s.Assign(arm, weight, uint64(ended)); err != nil {
		t.Fatal(err)
	}
	s.End(0, arm, uint64(ended), 0)
	for i := range failed {
		id := fmt.Sprintf("%s-%d-%d-%d", arm, weight, s.Metrics[0].failed(arm), i)
		if _, err := s.Fail(0, Failure{Unit: id, Execution: id, Arm: arm, Weight: weight, At: at}, rule); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVerdicts(t *testing.T) {
	type fed struct {
		arm           Arm
		weight        uint16
		ended, failed int
	}
	for _, c := range []struct {
		name   string
		fed    []fed
		edit   func(*Rules)
		demand float64
		want   Result
		says   string
		more   uint64
		broken bool
	}{
		{name: "nothing yet", want: Insufficient, says: "nothing has been measured", more: 86},
		{name: "little", fed: []fed{{Canary, 500, 40, 0}, {Stable, 500, 760, 15}}, want: Insufficient, says: "46 more", more: 46},
		{name: "enough", fed: []fed{{Canary, 500, 86, 0}, {Stable, 500, 1700, 30}}, want: Pass, says: "enough"},
		{name: "an early step asks for less", fed: []fed{{Canary, 500, 20, 0}, {Stable, 500, 380, 8}}, demand: 0.4, want: Pass},
		{name: "worse", fed: []fed{{Stable, 500, 150, 3}, {Canary, 500, 8, 6}}, want: Fail, says: "6 of 8 against 3 of 150"},
		{name: "above its ceiling without a control", fed: []fed{{Canary, 10000, 200, 60}}, want: Fail, says: "more often than 5 %"},
		{name: "never", fed: []fed{{Canary, 500, 100, 1}, {Stable, 500, 1900, 0}}, edit: func(r *Rules) { r.Metrics[0].Hard = true }, want: Fail, says: "never"},
		{name: "never, on the stable version", fed: []fed{{Stable, 500, 1900, 1}, {Canary, 500, 90, 0}}, edit: func(r *Rules) { r.Metrics[0].Hard = true }, want: Pass},
		{name: "harmed too many", fed: []fed{{Canary, 5000, 100, 13}, {Stable, 5000, 100, 3}}, edit: func(r *Rules) { r.MaxHarmed = 10; r.Metrics[0].Alpha = 1e-4; r.Metrics[0].Ceiling = 0.3 }, want: Fail, says: "10.0 executions harmed"},
		{name: "wrong shares", fed: []fed{{Canary, 500, 400, 0}, {Stable, 500, 400, 0}}, want: Insufficient, says: "measurement is broken", broken: true},
		{name: "no ceiling", fed: []fed{{Canary, 500, 400, 0}, {Stable, 500, 7600, 0}}, edit: func(r *Rules) { r.Metrics[0].Ceiling = 0 }, want: Insufficient, says: "no metric has a ceiling"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rules()
			if c.edit != nil {
				c.edit(&r)
			}
			s := fresh(t, 1)
			for _, f := range c.fed {
				feed(t, s, r.Metrics[0], f.arm, f.weight, f.ended, f.failed)
			}
			v := s.Judge(r, c.demand)
			if v.Result != c.want || !strings.Contains(v.Reason, c.says) || v.More != c.more || v.Broken != c.broken {
				t.Errorf("%s (%q, %d more, broken %t), want %s, %q, %d, %t", v.Result, v.Reason, v.More, v.Broken, c.want, c.says, c.more, c.broken)
			}
		})
	}
}

func TestUnknownOutcomesCountAsFailures(t *testing.T) {
	s, r := fresh(t, 1), rules()
	feed(t, s, r.Metrics[0], Canary, 500, 100, 0)
	feed(t, s, r.Metrics[0], Stable, 500, 1900, 0)
	if v := s.Judge(r, 0); v.Result != Pass {
		t.Fatalf("%s: %s", v.Result, v.Reason)
	}
	s.End(0, Canary, 0, 20)
	if v := s.Judge(r, 0); v.Result != Insufficient || !strings.Contains(v.Reason, "20 ended without an outcome") {
		t.Errorf("20 executions without an outcome: %s: %s", v.Result, v.Reason)
	}
}

// A session that fails forty times moves the bet once, but does not make the canary look forty times as good as it is.
func TestRepeatedFailuresOfAUnitStandAgainstPromotion(t *testing.T) {
	s, r := fresh(t, 1), rules()
	feed(t, s, r.Metrics[0], Canary, 500, 100, 1)
	feed(t, s, r.Metrics[0], Stable, 500, 1900, 20)
	s.Metrics[0].Counts.Failed[Canary] = 40
	if v := s.Judge(r, 0); v.Result != Insufficient || v.Metrics[0].Bound < 0.4 {
		t.Errorf("%s: %s, proven below %v", v.Result, v.Reason, v.Metrics[0].Bound)
	}
}

func TestOneUnitCountsOnce(t *testing.T) {
	s, r := fresh(t, 2), Rules{Alpha: 0.05, Metrics: []Metric{{Name: "failure"}, {Name: "slow"}}}.Split()
	for range 40 {
		if _, err := s.Fail(0, Failure{Unit: "session-1", Arm: Canary, Weight: 500, At: at}, r.Metrics[0]); err != nil {
			t.Fatal(err)
		}
	}
	if moved, _ := s.Fail(1, Failure{Unit: "session-1", Arm: Canary, Weight: 500, At: at}, r.Metrics[1]); !moved {
		t.Error("a unit that failed one metric did not enter another's test")
	}
	if s.Metrics[0].failed(Canary) != 1 || s.Metrics[0].Broke != nil || len(s.Recent) != 2 {
		t.Errorf("40 failures of one session: %+v", s.Metrics[0])
	}
}

// Any state survives being stored, gives the same number afterwards, goes on in the same way, and stays within its bound.
func TestStateSurvivesBeingStored(t *testing.T) {
	largest := 0
	rapid.Check(t, func(rt *rapid.T) {
		metrics := rapid.IntRange(1, MaxMetrics).Draw(rt, "metrics")
		r := Rules{Alpha: 0.05, Metrics: make([]Metric, metrics), MaxHarmed: 10}
		for i := range r.Metrics {
			r.Metrics[i].Ceiling = 0.05
		}
		r = r.Split()
		s := fresh(t, metrics)
		twin := s
		act := func(to *State, n uint64) error {
			metric := int(mix(n) % uint64(metrics)) //nolint:gosec // small
			arm := Arm(mix(n+1) % 2)
			weight := uint16(1 + 700*(mix(n+2)%MaxWeights)) //nolint:gosec // small
			id := fmt.Sprintf("%060d", mix(n+3)%5000)
			_, err := to.Fail(metric, Failure{Unit: id, Execution: id, Arm: arm, Weight: weight, At: at.Add(time.Duration(n))}, r.Metrics[metric])
			to.End(metric, arm, mix(n+4)%1_000_000, 3)
			return errorsJoin(err, to.Assign(arm, weight, mix(n+5)%100_000))
		}
		for _, n := range rapid.SliceOfN(rapid.Uint64(), 0, 300).Draw(rt, "acts") {
			if err := errorsJoin(act(s, n), nil); err != nil {
				rt.Fatal(err)
			}
			if twin != s {
				if err := act(twin, n); err != nil {
					rt.Fatal(err)
				}
			}
			if n%7 == 0 {
				data, err := json.Marshal(twin)
				if err != nil {
					rt.Fatal(err)
				}
				largest = max(largest, len(data))
				again := &State{}
				if err := json.Unmarshal(data, again); err != nil {
					rt.Fatal(err)
				}
				twin = again
			}
		}
		one, _ := json.Marshal(s)
		two, _ := json.Marshal(twin)
		if !bytes.Equal(one, two) {
			rt.Fatalf("a restart changed the evidence:\n%s\n%s", one, two)
		}
		if a, b := fmt.Sprint(s.Judge(r, 0)), fmt.Sprint(twin.Judge(r, 0)); a != b {
			rt.Fatalf("a restart changed the verdict:\n%s\n%s", a, b)
		}
	})
	if largest > 4096 {
		t.Errorf("the largest state was %d bytes", largest)
	}
	t.Logf("largest state: %d bytes", largest)
}

func errorsJoin(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func TestStateRefusesWhatDoesNotFit(t *testing.T) {
	for _, data := range []string{`{}`, `[]`, `{"weights":[500],"assigned":[],"metrics":[{"failed":[]}]}`, `{"metrics":[{}],"seen":"AAAA"}`} {
		if err := json.Unmarshal([]byte(data), &State{}); err == nil {
			t.Errorf("%s was taken for a state", data)
		}
	}
	if _, err := NewState(MaxMetrics + 1); err == nil {
		t.Error("too many metrics")
	}
	s := fresh(t, 1)
	for w := range uint16(MaxWeights) {
		if err := s.Assign(Canary, w+1, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Assign(Canary, 5000, 1); err == nil {
		t.Error("one weight too many")
	}
}

func TestSplit(t *testing.T) {
	r := Rules{Alpha: 0.05, Metrics: []Metric{{Alpha: 0.01}, {}, {}}}.Split()
	if math.Abs(r.Metrics[1].Alpha-0.02) > 1e-12 || r.Metrics[0].Alpha != 0.01 {
		t.Errorf("%+v", r.Metrics)
	}
}

func FuzzState(f *testing.F) {
	s := fresh(f, 2)
	data, _ := json.Marshal(s)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		var s State
		if json.Unmarshal(data, &s) != nil {
			return
		}
		one, err := json.Marshal(&s)
		if err != nil {
			t.Fatal(err)
		}
		var again State
		if err := json.Unmarshal(one, &again); err != nil {
			t.Fatalf("%v\n%s", err, one)
		}
	})
}

func BenchmarkFail(b *testing.B) {
	r := rules()
	ids := make([]string, 1<<16)
	for i := range ids {
		ids[i] = fmt.Sprintf("execution-%020d", i)
	}
	s := fresh(b, 1)
	i := 0
	for b.Loop() {
		if i%len(ids) == 0 {
			s = fresh(b, 1)
		}
		_, _ = s.Fail(0, Failure{Unit: ids[i%len(ids)], Execution: ids[i%len(ids)], Arm: Arm(i % 2), Weight: 500, At: at}, r.Metrics[0]) //nolint:gosec // 0 or 1
		i++
	}
}
