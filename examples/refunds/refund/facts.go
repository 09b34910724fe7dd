package refund

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Facts are what a run knows beside its logs: when which command was typed, and what the versions of the story are called.
type Facts struct {
	Seed uint64 `json:"seed"`
	// Limit replaces the bad version's own limit, in dollars; 0 where it does not.
	Limit int `json:"limit,omitempty"`
	// Predicted is the success under the bad version that the distribution predicts, from 0 to 1.
	Predicted float64 `json:"predicted"`
	// Abandoned is the version that the rollback abandons, Target the one it goes to, both "name:version".
	Abandoned string `json:"abandoned"`
	Target    string `json:"target"`
	// DeployedAt is when the command started that deployed the abandoned version, RolledBackAt that of the rollback.
	DeployedAt   time.Time `json:"deployed_at"`
	RolledBackAt time.Time `json:"rolled_back_at"`
	// Proxies is how many Envoys the rollback command counted.
	Proxies int `json:"proxies"`
	// PostMortem is the number of the record that the rollback opened.
	PostMortem string `json:"postmortem"`
	Clock      Clock  `json:"clock"`
	Marks      []Mark `json:"marks"`
}

// Mark is something worth a line in the plot.
type Mark struct {
	At    time.Time `json:"at"`
	Label string    `json:"label"`
}

// Clock maps real time to the time of the story, which runs faster.
type Clock struct {
	// Start is the real time at which the story clock showed StartMinute.
	Start time.Time `json:"start"`
	// StartMinute and EndMinute are minutes since the story's midnight.
	StartMinute int `json:"start_minute"`
	EndMinute   int `json:"end_minute"`
	// Minute is how long a story minute takes in real time.
	Minute time.Duration `json:"minute_ns"`
}

// Story is the story's time at real time t, in minutes since midnight.
func (c Clock) Story(t time.Time) float64 {
	return float64(c.StartMinute) + float64(t.Sub(c.Start))/float64(c.Minute)
}

// Real is the real time at which the story clock shows the given minutes since midnight.
func (c Clock) Real(minutes float64) time.Time {
	return c.Start.Add(time.Duration((minutes - float64(c.StartMinute)) * float64(c.Minute)))
}

// ReadFacts reads a facts file.
func ReadFacts(path string) (Facts, error) {
	var f Facts
	text, err := os.ReadFile(path)
	if err != nil {
		return f, fmt.Errorf("facts: %w", err)
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return f, fmt.Errorf("facts %s: %w", path, err)
	}
	return f, nil
}

// Write writes the facts to a file.
func (f Facts) Write(path string) error {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("facts: %w", err)
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
