package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

const none = "-"

// clock writes a moment in UTC, to the second, with the date where it is not within a day of now.
func (a *app) clock(ts *timestamppb.Timestamp) string {
	if !ts.IsValid() || ts.AsTime().IsZero() {
		return none
	}
	t := ts.AsTime().UTC()
	if distance := a.env.Now().Sub(t).Abs(); distance >= 24*time.Hour {
		return t.Format("2006-01-02 15:04:05Z")
	}
	return t.Format("15:04:05Z")
}

// moment is the clock and how long ago that was, or in how long it will be.
func (a *app) moment(ts *timestamppb.Timestamp) string {
	clock := a.clock(ts)
	if clock == none {
		return none
	}
	return clock + " (" + a.age(ts) + ")"
}

// age is "now", "12s ago" or "in 5m".
func (a *app) age(ts *timestamppb.Timestamp) string {
	if !ts.IsValid() {
		return none
	}
	d := a.env.Now().Sub(ts.AsTime())
	switch {
	case d.Abs() < time.Second:
		return "now"
	case d < 0:
		return "in " + span(-d)
	}
	return span(d) + " ago"
}

// precise is a moment of a rollback, to the millisecond.
func precise(ts *timestamppb.Timestamp) string {
	if !ts.IsValid() {
		return none
	}
	return ts.AsTime().UTC().Format("15:04:05.000Z")
}

// span writes a duration in its one or two largest units.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second && d%time.Second >= 100*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return two(int(d.Minutes()), "m", int(d.Seconds())%60, "s")
	case d < 24*time.Hour:
		return two(int(d.Hours()), "h", int(d.Minutes())%60, "m")
	}
	return two(int(d.Hours())/24, "d", int(d.Hours())%24, "h")
}

func two(large int, largeUnit string, small int, smallUnit string) string {
	if small == 0 {
		return fmt.Sprintf("%d%s", large, largeUnit)
	}
	return fmt.Sprintf("%d%s%d%s", large, largeUnit, small, smallUnit)
}

func duration(d *durationpb.Duration) string { return span(d.AsDuration()) }

// percent writes basis points: 10000 is "100%", 250 is "2.5%".
func percent(basisPoints uint32) string {
	return strconv.FormatFloat(float64(basisPoints)/100, 'f', -1, 64) + "%"
}

// split writes weights as they are typed: "2.0.3=90 2.1.0=10".
func split(weights []*operatorv1.Weight) string {
	if len(weights) == 0 {
		return "nothing"
	}
	parts := make([]string, 0, len(weights))
	for _, w := range weights {
		parts = append(parts, w.GetVersion()+"="+strings.TrimSuffix(percent(w.GetBasisPoints()), "%"))
	}
	return strings.Join(parts, " ")
}

// success writes the share of executions that succeeded and how many that rests on; "-" where nothing is known.
func success(succeeded, failed uint64) string {
	if succeeded+failed == 0 {
		return none
	}
	return fmt.Sprintf("%.1f%% of %d", 100*float64(succeeded)/float64(succeeded+failed), succeeded+failed)
}

// ready writes how many of a pool's instances take work.
func ready(pool *operatorv1.Pool) string {
	text := fmt.Sprintf("%d/%d", pool.GetReady(), pool.GetInstances())
	if pool.GetSilent() > 0 {
		text += fmt.Sprintf(" %d silent", pool.GetSilent())
	}
	if pool.GetFenced() {
		text += " fenced"
	}
	return text
}

// unanswering says which of n control planes do not answer.
func unanswering(n int) string {
	if n == 1 {
		return "the control plane does not answer"
	}
	return fmt.Sprintf("none of %d control planes answers", n)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
