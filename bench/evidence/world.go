package evidence

import (
	"cmp"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// outcome of one execution, as it arrives.
type outcome struct {
	unit string
	arm  evidence.Arm
	// weight of the canary when it was assigned, now when its outcome arrived.
	weight, now uint16
	failed      bool
	// fresh: the first execution of its unit.
	fresh bool
}

// world is one kind of traffic.
type world struct {
	name       string
	executions int
	// ratio is how many times as often the canary fails.
	ratio float64
	// base is the stable version's failure rate when a share x of the executions has come.
	base func(x float64) float64
	// weight of the canary at execution i.
	weight func(i int) uint16
	// delay of an outcome, in executions; nil: none.
	delay func(r *rand.Rand, failed bool) float64
	// sessions: executions come in sessions of 1 to 200 with failure rates of their own, and a session is one unit.
	sessions bool
	// only this rule is run; empty: all.
	only string
}

// ramp of 5, 10, 25 and 50 %, 400 executions each but for the last.
func ramp(i int) uint16 {
	return [...]uint16{500, 1000, 2500, 5000}[min(i/400, 3)]
}

// restless weights go up and down again: a canary that is held, taken back and tried anew.
func restless(i int) uint16 {
	return [...]uint16{500, 2500, 5000, 500, 1000, 5000}[i/300%6]
}

func always(p float64) func(float64) float64 { return func(float64) float64 { return p } }

// drifting traffic: what users ask for gets harder, tenfold in all, with a bad quarter of an hour in between.
func drifting(x float64) float64 {
	if x > 0.55 && x < 0.6 {
		return 0.3
	}
	return 0.01 * math.Pow(10, x)
}

// daily: three days, in which failures follow the hour.
func daily(x float64) float64 { return 0.03 + 0.025*math.Sin(6*math.Pi*x) }

// byDay is a ramp by the clock over three days whose nights are quiet: a step of 18 hours holds few executions or many.
func byDay(i int) uint16 {
	// Of 3,000 executions x have come when the share t of the time has passed: x = t - 0.9*sin(6*pi*t)/(6*pi), inverted.
	x, t := float64(i)/3000, float64(i)/3000
	for range 20 {
		t = x + 0.9*math.Sin(6*math.Pi*t)/(6*math.Pi)
	}
	return [...]uint16{500, 1000, 2500, 5000}[min(max(int(4*t), 0), 3)]
}

// late outcomes take 200 executions on average, and failures three times as long.
func late(r *rand.Rand, failed bool) float64 {
	if failed {
		return 600 * r.ExpFloat64()
	}
	return 200 * r.ExpFloat64()
}

// hourly is one execution a minute with a step every six hours, where outcomes take up to an hour.
func hourly(i int) uint16 { return [...]uint16{500, 1000, 2500, 5000}[min(i/360, 3)] }

func upToAnHour(r *rand.Rand, _ bool) float64 { return 60 * r.Float64() }

func worlds() []world {
	null := []world{
		{name: "2 % and 2 %", base: always(0.02), weight: ramp},
		{name: "0.5 % and 0.5 %", base: always(0.005), weight: ramp, executions: 10_000, only: ruleEvidence},
		{name: "10 % and 10 %", base: always(0.1), weight: ramp},
		{name: "30 % and 30 %, 10,000 executions", base: always(0.3), weight: ramp, executions: 10_000, only: ruleEvidence},
		{name: "drifting from 1 to 10 %", base: drifting, weight: ramp},
		{name: "day cycles", base: daily, weight: byDay},
		{name: "late outcomes", base: always(0.02), weight: restless, delay: late},
		{name: "1 execution a minute", base: always(0.05), weight: hourly, delay: upToAnHour},
		{name: "sessions of 1 to 200", base: always(1), weight: ramp, sessions: true, executions: 6000},
	}
	for i := range null {
		null[i].ratio = 1
	}
	worse := []world{
		{name: "2 % to 4 %", ratio: 2, base: always(0.02), weight: ramp},
		{name: "2 % to 10 %", ratio: 5, base: always(0.02), weight: ramp},
		{name: "2 % to 20 %", ratio: 10, base: always(0.02), weight: ramp},
		{name: workedExample, ratio: 14.5, base: always(0.02), weight: ramp},
		{name: "2 % to 50 %", ratio: 25, base: always(0.02), weight: ramp},
		{name: "2 % to 10 %, late outcomes", ratio: 5, base: always(0.02), weight: ramp, delay: late},
		{name: "sessions, 5 times as many failures", ratio: 5, base: always(1), weight: ramp, sessions: true, executions: 6000},
	}
	all := slices.Concat(null, worse)
	for i := range all {
		if all[i].executions == 0 {
			all[i].executions = 3000
		}
	}
	return all
}

// workedExample is the regression of `make demo`.
const workedExample = "2 % to 29 %"

func newSource(seed uint64, world string, run int) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(world))
	return rand.New(rand.NewPCG(seed^h.Sum64(), uint64(run))) //nolint:gosec // a simulation, seeded on purpose
}

// session is one unit of many executions.
type session struct {
	unit     string
	position float64
	rate     float64
	left     int
	seen     bool
}

func newSession(r *rand.Rand, n int) *session {
	s := &session{unit: "session-" + strconv.Itoa(n), position: r.Float64() * evidence.Whole, left: int(math.Exp(r.Float64() * math.Log(200.99)))}
	if r.Float64() < 0.2 { // Most sessions never fail; some are unlucky all along.
		s.rate = 0.3 * r.Float64() * r.Float64()
	}
	return s
}

// arrival is an outcome on its way.
type arrival struct {
	outcome
	at float64
}

func (w world) run(r *rand.Rand) []outcome {
	arrivals := make([]arrival, 0, w.executions)
	var open []*session
	born := 0
	for i := range w.executions {
		o := outcome{weight: w.weight(i), fresh: true}
		rate := w.base(float64(i) / float64(w.executions))
		if w.sessions {
			for len(open) < 20 {
				open = append(open, newSession(r, born))
				born++
			}
			k := r.IntN(len(open))
			s := open[k]
			o.unit, o.fresh = s.unit, !s.seen
			if s.position < float64(o.weight) { // What a hash policy does: a raised weight only adds to the canary.
				o.arm = evidence.Canary
			}
			s.seen, rate = true, rate*s.rate
			if s.left--; s.left <= 0 {
				open = slices.Delete(open, k, k+1)
			}
		} else {
			o.unit = "execution-" + strconv.Itoa(i)
			if r.Float64()*evidence.Whole < float64(o.weight) {
				o.arm = evidence.Canary
			}
		}
		if o.arm == evidence.Canary {
			rate = min(1, rate*w.ratio)
		}
		o.failed = r.Float64() < rate
		at := float64(i)
		if w.delay != nil {
			at += w.delay(r, o.failed)
		}
		arrivals = append(arrivals, arrival{o, at})
	}
	if w.delay != nil {
		slices.SortStableFunc(arrivals, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	}
	outcomes := make([]outcome, len(arrivals))
	for i, a := range arrivals {
		a.now = w.weight(min(int(a.at), w.executions-1))
		outcomes[i] = a.outcome
	}
	return outcomes
}
