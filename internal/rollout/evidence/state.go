package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Bounds that keep a canary's stored state below 4 KB.
const (
	// MaxMetrics is how many metrics can share the alpha of one canary.
	MaxMetrics = 4
	// MaxWeights is how many different weights one canary can have had.
	MaxWeights = 12
	// recentEvents is how many failures are kept by name.
	recentEvents = 6
	// maxID is how much of an execution's id is kept.
	maxID = 64
)

// ErrWeights says that a canary had more than MaxWeights different weights.
var ErrWeights = errors.New("more weights than evidence is kept for")

// Failure is one failing execution of one metric.
type Failure struct {
	// Unit is what was assigned at random: the hash key, or the execution's own id.
	Unit string
	// Execution is its id, for people.
	Execution string
	Arm       Arm
	// Weight of the canary, in basis points, when the execution was assigned.
	Weight uint16
	At     time.Time
}

// Event is a failure that moved the evidence.
type Event struct {
	Execution string    `json:"x"`
	Arm       Arm       `json:"a"`
	Weight    uint16    `json:"w"`
	At        time.Time `json:"t"`
	// Log is the metric's log-wealth after it.
	Log float64 `json:"l"`
}

// Counts are running totals of executions by arm.
type Counts struct {
	// Ended ones whose outcome is known, failures included.
	Ended [2]uint64 `json:"ended"`
	// Failed executions, where they are counted apart from the units that failed: one unit may fail often.
	Failed [2]uint64 `json:"failed"`
	// Unknown: ended without any statement.
	Unknown [2]uint64 `json:"unknown,omitempty"`
}

// State is what is known of one canary. Its JSON is its stored form, at most 4 KB; the wealth is made again from the tallies when it is read.
type State struct {
	// Weights that the canary has had, in order of first appearance; the rows of the tallies.
	Weights []uint16 `json:"weights"`
	// Assigned units by weight and arm.
	Assigned [][2]uint64 `json:"assigned"`
	Metrics  []Tally     `json:"metrics"`
	Seen     filter      `json:"seen"`
	Recent   []Event     `json:"recent,omitempty"`
}

// Tally is what is known of one metric.
type Tally struct {
	// Failed units by weight and arm.
	Failed [][2]uint64 `json:"failed"`
	Counts Counts      `json:"counts"`
	// Log is the log-wealth now.
	Log float64 `json:"log"`
	// Broke is the failure that proved the canary worse, or broke a hard constraint; nil while none did.
	Broke *Event `json:"broke,omitempty"`

	ratio Ratio
}

// NewState begins a canary's evidence for so many metrics.
func NewState(metrics int) (*State, error) {
	if metrics < 1 || metrics > MaxMetrics {
		return nil, fmt.Errorf("a canary is judged by 1 to %d metrics, not %d", MaxMetrics, metrics)
	}
	return &State{Metrics: make([]Tally, metrics), Seen: make(filter, filterBytes)}, nil
}

// row finds or makes the row of a weight.
func (s *State) row(weight uint16) (int, error) {
	if i := slices.Index(s.Weights, weight); i >= 0 {
		return i, nil
	}
	if len(s.Weights) == MaxWeights {
		return 0, ErrWeights
	}
	s.Weights = append(s.Weights, weight)
	s.Assigned = append(s.Assigned, [2]uint64{})
	for i := range s.Metrics {
		s.Metrics[i].Failed = append(s.Metrics[i].Failed, [2]uint64{})
	}
	return len(s.Weights) - 1, nil
}

// Fail enters a failing execution into a metric, by its place in the policy, and says whether it moved anything: a unit's second failure and
// one whose weight gave everything to one arm do not move the wealth.
func (s *State) Fail(metric int, f Failure, rule Metric) (bool, error) {
	row, err := s.row(f.Weight)
	if err != nil {
		return false, err
	}
	if !s.Seen.add(metric, f.Unit) {
		return false, nil
	}
	m := &s.Metrics[metric]
	m.Failed[row][f.Arm]++
	m.ratio.Fail(f.Arm, f.Weight)
	m.Log = m.ratio.Log()
	event := Event{Execution: f.Execution[:min(len(f.Execution), maxID)], Arm: f.Arm, Weight: f.Weight, At: f.At.UTC().Truncate(time.Millisecond), Log: m.Log}
	if m.Broke == nil && (m.Log >= rule.ratioThreshold() || rule.Hard && f.Arm == Canary) {
		m.Broke = &event
	}
	if len(s.Recent) == recentEvents {
		s.Recent = append(s.Recent[:0], s.Recent[1:]...)
	}
	s.Recent = append(s.Recent, event)
	return true, nil
}

// Assign enters units that were assigned to an arm.
func (s *State) Assign(arm Arm, weight uint16, units uint64) error {
	row, err := s.row(weight)
	if err != nil {
		return err
	}
	s.Assigned[row][arm] += units
	return nil
}

// End enters ended units of a metric: those whose outcome is known (failures included), and those that ended without one.
func (s *State) End(metric int, arm Arm, known, unknown uint64) {
	c := &s.Metrics[metric].Counts
	c.Ended[arm] += known
	c.Unknown[arm] += unknown
}

// Clone returns a copy that shares nothing with s.
func (s *State) Clone() *State {
	c := *s
	c.Weights, c.Assigned, c.Seen, c.Recent = slices.Clone(s.Weights), slices.Clone(s.Assigned), slices.Clone(s.Seen), slices.Clone(s.Recent)
	c.Metrics = slices.Clone(s.Metrics)
	for i := range c.Metrics {
		c.Metrics[i].Failed = slices.Clone(s.Metrics[i].Failed)
	}
	return &c
}

// Recount forgets how many units were assigned and ended, so that they can be entered anew from running totals.
func (s *State) Recount() {
	clear(s.Assigned)
	for i := range s.Metrics {
		s.Metrics[i].Counts = Counts{}
	}
}

// Shares of the arms by weight.
func (s *State) Shares() []Share {
	shares := make([]Share, len(s.Weights))
	for i, w := range s.Weights {
		shares[i] = Share{Weight: w, Assigned: s.Assigned[i]}
	}
	return shares
}

// assigned is how many units an arm was given in all.
func (s *State) assigned(arm Arm) (n uint64) {
	for _, a := range s.Assigned {
		n += a[arm]
	}
	return n
}

// failed is how many units of an arm failed a metric.
func (t *Tally) failed(arm Arm) (n uint64) {
	for _, f := range t.Failed {
		n += f[arm]
	}
	return n
}

// UnmarshalJSON implements json.Unmarshaler. It refuses a state whose parts do not fit together.
func (s *State) UnmarshalJSON(data []byte) error {
	type plain State
	var p plain
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	if len(p.Metrics) < 1 || len(p.Metrics) > MaxMetrics || len(p.Weights) > MaxWeights || len(p.Assigned) != len(p.Weights) || len(p.Seen) != filterBytes {
		return errors.New("evidence: its parts do not fit together")
	}
	for i := range p.Metrics {
		m := &p.Metrics[i]
		if len(m.Failed) != len(p.Weights) {
			return errors.New("evidence: a tally does not fit the weights")
		}
		for row, failed := range m.Failed {
			if failed[Stable] > math.MaxInt32 || failed[Canary] > math.MaxInt32 {
				return errors.New("evidence: a tally is not believable")
			}
			m.ratio.fail(Stable, p.Weights[row], failed[Stable])
			m.ratio.fail(Canary, p.Weights[row], failed[Canary])
		}
		m.Log = m.ratio.Log()
	}
	*s = State(p)
	return nil
}
