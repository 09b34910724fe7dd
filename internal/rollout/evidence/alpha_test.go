package evidence

import (
	"math/rand/v2"
	"strconv"
	"testing"
)

// alarms plays canaries that are as good as the stable version and returns the share of them that the judge stops. Each is 1,500 failures, or
// until it is stopped; next draws one: its unit, and the weights of the canary when it was assigned and when its outcome arrived.
func alarms(t *testing.T, next func(r *rand.Rand, n int) (unit string, arm Arm, assigned, now uint16), weight func(assigned, now uint16) uint16, every bool) float64 {
	t.Helper()
	const runs = 400
	rule := Metric{Name: "failure", Alpha: 0.05}
	stopped := 0
	for run := range runs {
		r := rand.New(rand.NewPCG(8, uint64(run))) //nolint:gosec // a simulation
		s := fresh(t, 1)
		for n := range 1500 {
			unit, arm, assigned, now := next(r, n)
			if every {
				unit = strconv.Itoa(n)
			}
			if _, err := s.Fail(0, Failure{Unit: unit, Arm: arm, Weight: weight(assigned, now)}, rule); err != nil {
				t.Fatal(err)
			}
			if s.Metrics[0].Broke != nil {
				stopped++
				break
			}
		}
	}
	return float64(stopped) / runs
}

func assignedWeight(assigned, _ uint16) uint16 { return assigned }
func currentWeight(_, now uint16) uint16       { return now }

func draw(r *rand.Rand, weight uint16) Arm {
	if r.IntN(Whole) < int(weight) {
		return Canary
	}
	return Stable
}

// A canary that had half of the traffic is held back to 5 %; what was assigned before still fails afterwards.
func TestTheWeightInForceAtAssignmentIsWhatCounts(t *testing.T) {
	heldBack := func(r *rand.Rand, n int) (string, Arm, uint16, uint16) {
		if n%4 == 0 {
			return strconv.Itoa(n), draw(r, 5000), 5000, 500
		}
		return strconv.Itoa(n), draw(r, 500), 500, 500
	}
	if share := alarms(t, heldBack, assignedWeight, false); share > 0.05 {
		t.Errorf("judged by the weight at assignment, %.3f of good canaries were stopped", share)
	}
	if share := alarms(t, heldBack, currentWeight, false); share < 0.5 {
		t.Errorf("judged by the weight now, only %.3f of good canaries were stopped: this test has lost its point", share)
	}
}

// Sessions are assigned as a whole; one in ten is unlucky and fails forty times.
func TestASessionIsOneUnit(t *testing.T) {
	sessions := func() func(r *rand.Rand, n int) (string, Arm, uint16, uint16) {
		var unit string
		var arm Arm
		left, born := 0, 0
		return func(r *rand.Rand, n int) (string, Arm, uint16, uint16) {
			if n == 0 {
				left = 0
			}
			if left == 0 {
				born++
				unit, arm, left = strconv.Itoa(born), draw(r, 500), 1
				if r.IntN(10) == 0 {
					left = 40
				}
			}
			left--
			return unit, arm, 500, 500
		}
	}
	if share := alarms(t, sessions(), assignedWeight, false); share > 0.05 {
		t.Errorf("with a session as one unit, %.3f of good canaries were stopped", share)
	}
	if share := alarms(t, sessions(), assignedWeight, true); share < 0.2 {
		t.Errorf("with every failure of a session as one of its own, only %.3f of good canaries were stopped: this test has lost its point", share)
	}
}

// Raising the weight of a hash policy moves sessions that began on the stable version into the canary. A unit's first failure is on the canary with
// the weight of that moment all the same, so they need not leave the test.
func TestSessionsThatMoveIntoTheCanaryRaiseNoFalseAlarm(t *testing.T) {
	positions := map[string]int{}
	moving := func(r *rand.Rand, n int) (string, Arm, uint16, uint16) {
		weight := [...]uint16{500, 1000, 2500, 5000, 9000}[n/300]
		if n == 0 {
			clear(positions)
		}
		unit := strconv.Itoa(r.IntN(4000)) // few enough that many fail under several weights
		if _, ok := positions[unit]; !ok {
			positions[unit] = r.IntN(Whole)
		}
		arm := Stable
		if positions[unit] < int(weight) {
			arm = Canary
		}
		return unit, arm, weight, weight
	}
	if share := alarms(t, moving, assignedWeight, false); share > 0.05 {
		t.Errorf("%.3f of good canaries were stopped", share)
	}
}
