package evidence

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// judge sees outcomes as they arrive and says when it stops the canary.
type judge interface {
	name() string
	see(o outcome) (stop bool)
}

// rule begins one run of a judge.
type rule struct {
	name  string
	begin func() judge
}

// Names of the rules.
const (
	ruleEvidence = "e-process, alpha 0.05"
	ruleStrict   = "e-process, alpha 0.01"
	ruleZ        = "two-proportion z, peeked at every 25"
	ruleArgo     = "Argo Rollouts: success >= 95 % a window of 50, failureLimit 3"
	ruleFlagger  = "Flagger: success >= 99 % a window of 50, threshold 5"
	ruleKayenta  = "Kayenta: Mann-Whitney, confidence 0.98, tolerance 0.25"
	// Wrong on purpose, to show what the rules of the unit and of the weight are for.
	ruleCurrent = "e-process by the weight on arrival (wrong)"
	ruleEvery   = "e-process with every failure of a session (wrong)"
)

var rules = []rule{
	{ruleEvidence, func() judge { return newProduction(ruleEvidence, 0.05) }},
	{ruleStrict, func() judge { return newProduction(ruleStrict, 0.01) }},
	{ruleZ, func() judge { return &z{} }},
	{ruleArgo, func() judge { return &windows{label: ruleArgo, least: 0.95, failures: 4} }},
	{ruleFlagger, func() judge { return &windows{label: ruleFlagger, least: 0.99, failures: 5, silence: true} }},
	{ruleKayenta, func() judge { return &kayenta{} }},
	{ruleCurrent, func() judge { j := newProduction(ruleCurrent, 0.05); j.current = true; return j }},
	{ruleEvery, func() judge { j := newProduction(ruleEvery, 0.05); j.every = true; return j }},
}

// production is the judge that decides over real canaries.
type production struct {
	label   string
	state   *evidence.State
	metric  evidence.Metric
	current bool
	every   bool
	n       int
}

func newProduction(label string, alpha float64) *production {
	s, err := evidence.NewState(1)
	if err != nil {
		panic(err) // 1 is allowed
	}
	return &production{label: label, state: s, metric: evidence.Metric{Name: "failure", Alpha: alpha}}
}

func (p *production) name() string { return p.label }

func (p *production) see(o outcome) bool {
	weight, unit := o.weight, o.unit
	if p.current {
		weight = o.now
	}
	if p.every {
		p.n++
		unit = strconv.Itoa(p.n)
	}
	if o.fresh {
		if err := p.state.Assign(o.arm, weight, 1); err != nil {
			panic(err) // the ramps have few weights
		}
	}
	p.state.End(0, o.arm, 1, 0)
	if !o.failed {
		return false
	}
	if _, err := p.state.Fail(0, evidence.Failure{Unit: unit, Arm: o.arm, Weight: weight}, p.metric); err != nil {
		panic(err)
	}
	return p.state.Metrics[0].Broke != nil
}

// z compares failure rates by the normal approximation, one-sided at 5 %, every 25 outcomes.
type z struct {
	n      int
	all    [2]float64
	failed [2]float64
}

func (*z) name() string { return ruleZ }

func (z *z) see(o outcome) bool {
	z.n++
	z.all[o.arm]++
	if o.failed {
		z.failed[o.arm]++
	}
	if z.n%25 != 0 || z.all[0] == 0 || z.all[1] == 0 {
		return false
	}
	pooled := (z.failed[0] + z.failed[1]) / (z.all[0] + z.all[1])
	deviation := math.Sqrt(pooled * (1 - pooled) * (1/z.all[0] + 1/z.all[1]))
	return deviation > 0 && (z.failed[evidence.Canary]/z.all[evidence.Canary]-z.failed[evidence.Stable]/z.all[evidence.Stable])/deviation > 1.645
}

// windows stops once so many windows of 50 outcomes had too low a success rate on the canary.
type windows struct {
	label        string
	least        float64
	failures     int
	silence      bool // a window without a canary execution counts too
	n            int
	all, failed  float64
	failedChecks int
}

func (w *windows) name() string { return w.label }

func (w *windows) see(o outcome) bool {
	w.n++
	if o.arm == evidence.Canary {
		w.all++
		if o.failed {
			w.failed++
		}
	}
	if w.n%50 != 0 {
		return false
	}
	if w.all == 0 && w.silence || w.all > 0 && 1-w.failed/w.all < w.least {
		w.failedChecks++
	}
	w.all, w.failed = 0, 0
	return w.failedChecks >= w.failures
}

// kayenta compares the failure rates of windows of 50 outcomes, judged anew from all of them every 250.
type kayenta struct {
	n              int
	all, failed    [2]float64
	stable, canary []float64
}

func (*kayenta) name() string { return ruleKayenta }

func (k *kayenta) see(o outcome) bool {
	k.n++
	k.all[o.arm]++
	if o.failed {
		k.failed[o.arm]++
	}
	if k.n%50 == 0 {
		if k.all[evidence.Stable] > 0 {
			k.stable = append(k.stable, k.failed[evidence.Stable]/k.all[evidence.Stable])
		}
		if k.all[evidence.Canary] > 0 {
			k.canary = append(k.canary, k.failed[evidence.Canary]/k.all[evidence.Canary])
		}
		k.all, k.failed = [2]float64{}, [2]float64{}
	}
	return k.n%250 == 0 && len(k.stable) > 1 && len(k.canary) > 1 && high(k.canary, k.stable)
}

// high says what Kayenta's classifier does: the lower end of the confidence interval of the shift is above a quarter of its estimate.
func high(canary, stable []float64) bool {
	const quantile = 2.3263478740408408 // of the normal distribution, at 0.99: both sides together leave 2 %
	low, ok := shift(canary, stable, quantile)
	if !ok || low <= 0 {
		return false
	}
	estimate, ok := shift(canary, stable, 0)
	return ok && low > 0.25*math.Abs(estimate)
}

// shift is the shift of x against y at which the standardised rank sum is the quantile; ok is false where all values are tied.
func shift(x, y []float64, quantile float64) (mu float64, ok bool) {
	low, high := slices.Min(x)-slices.Max(y), slices.Max(x)-slices.Min(y)
	atLow, ok1 := rankSum(x, y, low)
	atHigh, ok2 := rankSum(x, y, high)
	if !ok1 || !ok2 {
		return 0, false
	}
	if atLow <= quantile {
		return low, true
	}
	if atHigh >= quantile {
		return high, true
	}
	for high-low > 1e-4 {
		mid := (low + high) / 2
		v, ok := rankSum(x, y, mid)
		if !ok {
			return 0, false
		}
		if v > quantile {
			low = mid
		} else {
			high = mid
		}
	}
	return (low + high) / 2, true
}

// rankSum of x shifted by mu against y, standardised, with corrections for ties and continuity.
func rankSum(x, y []float64, mu float64) (float64, bool) {
	type value struct {
		v   float64
		ofX bool
	}
	all := make([]value, 0, len(x)+len(y))
	for _, v := range x {
		all = append(all, value{v - mu, true})
	}
	for _, v := range y {
		all = append(all, value{v, false})
	}
	slices.SortFunc(all, func(a, b value) int { return cmp.Compare(a.v, b.v) })
	var sum, ties float64
	for i := 0; i < len(all); {
		j, ofX := i, 0
		for ; j < len(all) && all[j].v == all[i].v; j++ {
			if all[j].ofX {
				ofX++
			}
		}
		sum += float64(ofX) * float64(i+1+j) / 2
		t := float64(j - i)
		ties += t*t*t - t
		i = j
	}
	m, n := float64(len(x)), float64(len(y))
	d := sum - m*(m+1)/2 - m*n/2
	sigma := math.Sqrt(m * n / 12 * (m + n + 1 - ties/((m+n)*(m+n-1))))
	if sigma == 0 {
		return 0, false
	}
	correction := 0.0
	if d != 0 {
		correction = math.Copysign(0.5, d)
	}
	return (d - correction) / sigma, true
}
