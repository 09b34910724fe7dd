package evidence

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// With both versions failing equally often no bet gains in expectation, whatever the weight: that is all that the bound on false alarms rests on.
func TestNoBetGainsInExpectationUnderTheNull(t *testing.T) {
	for weight := uint16(1); weight < Whole; weight++ {
		w := float64(weight) / Whole
		s := stakesAt(weight)
		for i := range ratioBets {
			mean := w*math.Exp(s[Canary][i].float()) + (1-w)*math.Exp(s[Stable][i].float())
			if mean > 1+1e-12 || mean < 1-1e-8 {
				t.Fatalf("weight %d, bet %d: a fair failure multiplies the stake by %.12f", weight, i, mean)
			}
		}
	}
}

func TestWealthDoesNotDependOnTheOrder(t *testing.T) {
	type failure struct {
		Arm    Arm
		Weight uint16
	}
	gen := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) failure {
		return failure{rapid.SampledFrom([]Arm{Stable, Canary}).Draw(t, "arm"), rapid.SampledFrom([]uint16{0, 100, 500, 5000, Whole}).Draw(t, "weight")}
	}), 0, 200)
	rapid.Check(t, func(t *rapid.T) {
		failures := gen.Draw(t, "failures")
		var once, again, counted Ratio
		counts := map[failure]uint64{}
		for _, f := range failures {
			once.Fail(f.Arm, f.Weight)
			counts[f]++
		}
		for _, f := range rapid.Permutation(failures).Draw(t, "order") {
			again.Fail(f.Arm, f.Weight)
		}
		for f, n := range counts {
			counted.fail(f.Arm, f.Weight, n)
		}
		if once != again || once != counted {
			t.Fatalf("the same failures gave different wealth: %v %v %v", once.Log(), again.Log(), counted.Log())
		}
		if once.reached(math.Log(20)) != (once.Log() >= math.Log(20)) {
			t.Fatal("reached disagrees with Log")
		}
	})
}

func TestBounds(t *testing.T) {
	for _, c := range []struct {
		failed uint64
		bound  float64
		want   uint64
	}{{0, 0.05, 86}, {0, 0.01, 440}, {0, 0.5, 7}, {0, 0, math.MaxUint64}} {
		if got := Needed(c.failed, c.bound, 0.05); got != c.want {
			t.Errorf("below %v after %d failures: needs %d executions, want %d", c.bound, c.failed, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		failed := rapid.Uint64Range(0, 40).Draw(t, "failed")
		bound := rapid.Float64Range(0.01, 0.6).Draw(t, "bound")
		n := Needed(failed, bound, 0.05)
		if LogBelowBound(n, failed, bound) < math.Log(20) || LogBelowBound(n-1, failed, bound) >= math.Log(20) {
			t.Fatalf("%d executions are not the least that put %d failures below %v", n, failed, bound)
		}
		if u := UpperBound(n, failed, 0.05); u > bound+1e-9 || u < float64(failed)/float64(n) {
			t.Fatalf("after %d of %d the bound is %v, which was to be below %v", failed, n, u, bound)
		}
	})
	if UpperBound(0, 0, 0.05) != 1 || UpperBound(3, 3, 0.05) != 1 {
		t.Error("nothing known must bound nothing")
	}
}

// The one-sample tests are fair too: summed over every history of n executions, the expected stake is at most 1.
func TestOneSampleBetsAreFair(t *testing.T) {
	for _, p := range []float64{0.01, 0.05, 0.2, 0.5} {
		for _, n := range []uint64{1, 7, 60} {
			var above, below float64
			for k := range n + 1 {
				chance := math.Exp(logChoose(n, k) + logLikelihood(n, k, p))
				above += chance * math.Exp(LogAboveCeiling(n, k, p))
				below += chance * math.Exp(LogBelowBound(n, k, p))
			}
			if above > 1+1e-9 || below > 1+1e-9 {
				t.Errorf("at %v and %d executions the stakes are expected at %v and %v", p, n, above, below)
			}
		}
	}
}

func logChoose(n, k uint64) float64 {
	lg := func(x uint64) float64 { l, _ := math.Lgamma(float64(x) + 1); return l }
	return lg(n) - lg(k) - lg(n-k)
}

func TestImbalance(t *testing.T) {
	for _, c := range []struct {
		name   string
		shares []Share
		broken bool
	}{
		{"nothing", nil, false},
		{"as set", []Share{{500, [2]uint64{950, 50}}, {5000, [2]uint64{500, 500}}}, false},
		{"a little late", []Share{{500, [2]uint64{96_000, 4_900}}}, false},
		{"none arrives", []Share{{500, [2]uint64{400, 0}}}, true},
		{"twice as many", []Share{{500, [2]uint64{900, 100}}}, true},
		{"all of it says nothing", []Share{{Whole, [2]uint64{50, 10}}, {0, [2]uint64{10, 50}}}, false},
	} {
		if got := LogImbalance(c.shares) >= math.Log(20); got != c.broken {
			t.Errorf("%s: broken %t (log %.2f), want %t", c.name, got, LogImbalance(c.shares), c.broken)
		}
	}
}

// What the outlook says must be what the literature's table says of this test: a ramp of 5, 10, 25, 50 %, 400 executions each.
func TestForesee(t *testing.T) {
	ramp := []Exposure{{500, 400}, {1000, 400}, {2500, 400}, {5000, 1800}}
	null := Case{Base: 0.02, Ratio: 1, Alpha: 0.05}
	if p := Power(null, ramp); p > 0.05 {
		t.Errorf("a canary as good as the stable version is stopped with chance %.3f, alpha is 0.05", p)
	}
	for _, c := range []struct{ ratio, within float64 }{{5, 750}, {10, 300}, {25, 100}} {
		o := Foresee(Case{Base: 0.02, Ratio: c.ratio, Alpha: 0.05}, ramp)
		median, ok := o.At(0.5)
		if !ok || float64(median.Executions) > c.within {
			t.Errorf("%v times as many failures: stopped %t after a median of %d executions, want %v", c.ratio, ok, median.Executions, c.within)
		}
		if o.Chance() < 0.95 || o.Harm() <= 0 || o.Harm() > 60 {
			t.Errorf("%v times as many failures: chance %v, harm %v", c.ratio, o.Chance(), o.Harm())
		}
	}
	if a, b := Foresee(null, ramp).Chance(), Foresee(null, ramp).Chance(); a != b {
		t.Errorf("the same question had two answers: %v, %v", a, b)
	}
	if n, ok := ExecutionsFor(Case{Base: 0.02, Ratio: 10, Alpha: 0.05}, 1000, 0.8, 100_000); !ok || n < 100 || n > 1000 {
		t.Errorf("10 times as many failures at 10 %%: %d executions (%t)", n, ok)
	}
	if _, ok := ExecutionsFor(Case{Base: 0.02, Ratio: 2, Alpha: 0.05}, 100, 0.8, 100); ok {
		t.Error("100 executions at 1 % cannot show a doubling")
	}
	for _, c := range []Case{{Base: 0, Ratio: 5, Alpha: 0.05}, {Base: 0.5, Ratio: 9, Alpha: 0.05}} {
		if o := Foresee(c, ramp); math.IsNaN(o.Chance()) || math.IsNaN(o.Harm()) {
			t.Errorf("%+v: %v %v", c, o.Chance(), o.Harm())
		}
	}
}
