package versions

import "fmt"

// Standing is what the history of a version says about it. It changes by Next alone.
type Standing string

const (
	// Published means in the archive, never routed.
	Published Standing = "published"
	// Candidate holds or held weight; nothing is proven yet.
	Candidate Standing = "candidate"
	// Good held all the weight and was replaced by a promotion or ended its bake.
	Good Standing = "good"
	// Aborted was taken out as a canary before it held all the weight, by a plan and not by a rollback.
	Aborted Standing = "aborted"
	// Quarantined was abandoned by a rollback whose post-mortem is open.
	Quarantined Standing = "quarantined"
	// Retired had its post-mortem closed with a cause that lies in the version. Final, unless that record is reopened.
	Retired Standing = "retired"
)

// Event is what can happen to a version's standing.
type Event string

const (
	// EventWeighted says that it was given weight.
	EventWeighted Event = "weighted"
	// EventPromotedAway says that it held all the weight and a newer version took all of it.
	EventPromotedAway Event = "promoted-away"
	// EventBaked says that it held all the weight for the bake time.
	EventBaked Event = "baked"
	// EventAborted says that its canary was stopped before it held all the weight.
	EventAborted Event = "aborted"
	// EventAbandoned says that a rollback took all its weight.
	EventAbandoned Event = "abandoned"
	// EventCleared says that its post-mortem found the fault elsewhere (false alarm, environment), or that the rollback was undone.
	EventCleared Event = "cleared"
	// EventBlamed says that its post-mortem found the fault in it.
	EventBlamed Event = "blamed"
	// EventOverridden says that a person deployed it in spite of its open post-mortem.
	EventOverridden Event = "overridden"
	// EventReopened says that the post-mortem that blamed it was reopened.
	EventReopened Event = "reopened"
)

// transitions is the whole of the state machine: what is not in it is refused. A version that an override brought back is a Candidate and
// can be abandoned again as one; closing the first post-mortem then no longer concerns its standing.
var transitions = map[Standing]map[Event]Standing{
	Published: {
		EventWeighted: Candidate,
	},
	Candidate: {
		EventWeighted:     Candidate,
		EventPromotedAway: Good,
		EventBaked:        Good,
		EventAborted:      Aborted,
		EventAbandoned:    Quarantined,
	},
	Good: {
		EventWeighted:     Good,
		EventPromotedAway: Good,
		EventBaked:        Good,
		EventAbandoned:    Quarantined,
	},
	Aborted: {
		EventWeighted: Candidate,
	},
	Quarantined: {
		EventCleared:    Candidate,
		EventBlamed:     Retired,
		EventOverridden: Candidate,
	},
	Retired: {
		EventReopened: Quarantined,
	},
}

// Next is the standing after event e. An event that the table does not have is an error that names both; the standing returned with it is
// the old one.
func (s Standing) Next(e Event) (Standing, error) {
	if next, ok := transitions[s][e]; ok {
		return next, nil
	}
	return s, fmt.Errorf("a version that is %s cannot be %s", s, e)
}

// Standings lists every standing, in the order of a version's life.
func Standings() []Standing {
	return []Standing{Published, Candidate, Good, Aborted, Quarantined, Retired}
}

// Events lists every event.
func Events() []Event {
	return []Event{EventWeighted, EventPromotedAway, EventBaked, EventAborted, EventAbandoned, EventCleared, EventBlamed, EventOverridden, EventReopened}
}
