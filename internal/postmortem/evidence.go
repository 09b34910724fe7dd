package postmortem

import "time"

// Evidence is what was gathered of one spec's rollback by itself.
type Evidence struct {
	// At is when it was gathered; Final says that nothing more will be.
	At    time.Time `json:"at"`
	Final bool      `json:"final"`
}
