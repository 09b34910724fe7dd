package postmortem

import (
	"cmp"
	"slices"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/routing"
)

// concentrated is by how much a segment's share of the failures must exceed its share of the executions to be named as where they lie.
const concentrated = 0.1

// AttributeSeen is what production and the canary had of one attribute that the version's manifest declares.
type AttributeSeen struct {
	Name string `json:"name"`
	// Counted by it are so many of the Executions that began on any version while the version held weight.
	Counted    uint64 `json:"counted"`
	Executions uint64 `json:"executions"`
	// Steps are the generations in which the version was a canary and was counted by it.
	Steps  []uint64    `json:"steps"`
	Values []ValueSeen `json:"values"`
}

// ValueSeen is one segment: the executions with one value of an attribute.
type ValueSeen struct {
	Value string `json:"value"`
	// Executions that began on any version while the version held weight; Share is their part of those that were counted.
	Executions uint64  `json:"executions"`
	Share      float64 `json:"share"`
	// Failed on the version in all, and Unknown, which stated nothing; FailedShare is the part of its failures that were counted.
	Failed      uint64  `json:"failed"`
	FailedShare float64 `json:"failedShare"`
	Unknown     uint64  `json:"unknown"`
	// Canary is how many began on the version while it was a canary; Steps how many of them at each of the attribute's steps.
	Canary uint64   `json:"canary"`
	Steps  []uint64 `json:"steps"`
}

// Where names one segment.
type Where struct {
	Attribute string `json:"attribute"`
	Value     string `json:"value"`
}

// attributes tells by each declared attribute what production had and what the canary saw.
func (a *Analysis) attributes(e Evidence) {
	totals, _ := find(e.Totals, a.Version)
	names := []string{}
	for _, s := range totals.Segments {
		names = append(names, s.Attribute)
	}
	slices.Sort(names)
	most := concentrated
	for _, name := range slices.Compact(names) {
		seen := a.attribute(e, name, totals)
		for _, v := range seen.Values {
			if more := v.FailedShare - v.Share; more > most && seen.Counted > 0 {
				most, a.Where = more, &Where{name, v.Value}
			}
		}
		a.Attributes = append(a.Attributes, seen)
	}
}

func (a *Analysis) attribute(e Evidence, name string, totals Outcome) AttributeSeen {
	out := AttributeSeen{Name: name, Steps: []uint64{}, Values: []ValueSeen{}}
	at := func(value string) *ValueSeen {
		i := slices.IndexFunc(out.Values, func(v ValueSeen) bool { return v.Value == value })
		if i < 0 {
			i = len(out.Values)
			out.Values = append(out.Values, ValueSeen{Value: value, Steps: make([]uint64, len(out.Steps))})
		}
		return &out.Values[i]
	}
	for _, x := range e.Steps {
		w := weightOf(x.Step, a.Version)
		step := StepSeen{}
		if step.count(x, a.Version); w == 0 || !step.Known {
			continue
		}
		out.Executions += step.All
		for _, end := range x.End {
			began, known := begun(x, end.Version, name)
			canary := known && end.Version == a.Version && w < routing.Full
			if canary {
				out.Steps = append(out.Steps, x.Generation)
				for i := range out.Values {
					out.Values[i].Steps = append(out.Values[i].Steps, 0)
				}
			}
			for _, s := range began {
				v := at(s.Value)
				v.Executions += s.Started
				out.Counted += s.Started
				if canary {
					v.Canary += s.Started
					v.Steps[len(v.Steps)-1] = s.Started
				}
			}
		}
	}
	var failed uint64
	for _, s := range rowsOf(totals, name) {
		v := at(s.Value)
		v.Failed, v.Unknown = s.Failed, s.Unknown
		failed += s.Failed
	}
	for i := range out.Values {
		v := &out.Values[i]
		v.Share, v.FailedShare = part(v.Executions, out.Counted), part(v.Failed, failed)
	}
	slices.SortFunc(out.Values, func(x, y ValueSeen) int {
		return cmp.Or(cmp.Compare(y.Failed, x.Failed), cmp.Compare(y.Executions, x.Executions), cmp.Compare(x.Value, y.Value))
	})
	return out
}

func part(n, of uint64) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// rowsOf are an outcome's counts by one attribute.
func rowsOf(o Outcome, attribute string) []drain.Segment {
	var out []drain.Segment
	for _, s := range o.Segments {
		if s.Attribute == attribute {
			out = append(out, s)
		}
	}
	return out
}

// begun is how many executions of a version began in a step, by the values of an attribute. known is false where they were not counted by it:
// the version's manifest does not declare it, or the counts of one end of the step are missing.
func begun(x Exposed, version, attribute string) (began []drain.Segment, known bool) {
	end, _ := find(x.End, version)
	begin, _ := find(x.Begin, version)
	now, before := rowsOf(end, attribute), rowsOf(begin, attribute)
	if len(now) == 0 && end.Started > begin.Started || len(before) == 0 && begin.Started > 0 {
		return nil, false
	}
	for _, s := range now {
		if i := slices.IndexFunc(before, func(b drain.Segment) bool { return b.Value == s.Value }); i >= 0 {
			if before[i].Started > s.Started {
				return nil, false
			}
			s.Started -= before[i].Started
		}
		if s.Started > 0 {
			began = append(began, s)
		}
	}
	return began, true
}
