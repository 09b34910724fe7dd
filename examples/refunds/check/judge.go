package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// What a run must show.
const (
	minSuccess          = 0.96 // before and after
	minBad, maxBad      = 0.64, 0.78
	minFailed           = 200
	minOfEach           = 5 // completed, handed over, cancelled
	predictionTolerance = 0.05
)

// bar is one thing a run must show.
type bar struct {
	name, measured, want string
	ok                   bool
}

func atLeast[T int | float64](name string, got, want T) bar {
	return bar{name: name, measured: fmt.Sprint(got), want: fmt.Sprint("at least ", want), ok: got >= want}
}

func zero(name string, got int) bar {
	return bar{name: name, measured: fmt.Sprint(got), want: "0", ok: got == 0}
}

func judge(m measurement, f refund.Facts) []bar {
	r := m.result(f)
	failed, completed, handedOver, cancelled := minFailed, minOfEach, minOfEach, minOfEach
	low, high := minBad, maxBad
	if f.Limit != 0 {
		// The story's own bounds hold for its own limit. Another one has to follow the distribution, and can only leave as many
		// refunds in each state as the distribution has.
		low, high = f.Predicted-predictionTolerance, f.Predicted+predictionTolerance
		n := float64(m.bad.refunds)
		perSecond := n / max(m.badLasted.Seconds(), 1)
		failed = reachable(minFailed, n*(1-f.Predicted))
		completed = reachable(minOfEach, perSecond*f.Predicted*meanPaymentSeconds)
		cancelled = reachable(minOfEach, n*(1-f.Predicted)-perSecond*(1-f.Predicted)*youngSeconds)
	}
	return []bar{
		atLeast("success_before", r.SuccessBefore, minSuccess),
		{
			name: "success_bad", measured: fmt.Sprint(r.SuccessBad), ok: r.SuccessBad >= low && r.SuccessBad <= high,
			want: fmt.Sprintf("%.2f to %.2f (the distribution predicts %.3f)", low, high, f.Predicted),
		},
		atLeast("success_after", r.SuccessAfter, minSuccess),
		atLeast("failed_under_bad", r.FailedUnder, failed),
		atLeast("completed", r.Completed, completed),
		atLeast("handed_over", r.HandedOver, handedOver),
		atLeast("cancelled", r.Cancelled, cancelled),
		zero("lost", r.Lost),
		zero("paid_twice", r.PaidTwice),
		{name: "postmortem", measured: r.PostMortem, want: "a number", ok: r.PostMortem != ""},
		atLeast("proxies", r.Proxies, 1),
	}
}

// A payment takes this long on average, and a refund is young, handed over rather than cancelled, for this long after it came.
const (
	meanPaymentSeconds = 0.25
	youngSeconds       = 2.0
)

// reachable lowers a bar to what chance leaves of an expected number: two and a half standard deviations below it.
func reachable(want int, expected float64) int {
	expected = max(expected, 0)
	return min(want, max(int(math.Floor(expected-2.5*math.Sqrt(expected))), 0))
}

// tell prints the judgement and returns errHeldNot if a bar was missed.
func tell(w io.Writer, m measurement, bars []bar) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\tmeasured\twanted")
	var missed []string
	for _, b := range bars {
		verdict := "ok"
		if !b.ok {
			verdict = "MISSED"
			missed = append(missed, b.name)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", b.name, b.measured, b.want, verdict)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%d refunds before, %d under the abandoned version (and %d under way that it had not judged), %d after; %d came back and were paid\n",
		m.before.refunds, m.bad.refunds, m.unjudged, m.after.refunds, m.retriedOK)
	for _, version := range slices.Sorted(maps.Keys(m.settledBy)) {
		name := version
		if name == "" {
			name = "nobody"
		}
		fmt.Fprintf(w, "settled by %s: %d\n", name, m.settledBy[version])
	}
	const shown = 10
	for i, l := range m.lost {
		if i == shown {
			fmt.Fprintf(w, "lost: and %d more\n", len(m.lost)-shown)
			break
		}
		fmt.Fprintln(w, "lost:", l)
	}
	if len(missed) > 0 {
		return fmt.Errorf("%w: %s", errHeldNot, strings.Join(missed, ", "))
	}
	return nil
}

// rounded keeps four decimals of a share.
func rounded(share float64) float64 { return math.Round(share*10_000) / 10_000 }
