package postmortem_test

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/postmortem"
)

var (
	drawnText = regexp.MustCompile(`(?s)<text x="([^"]+)"[^>]*>([^<]*)</text>`)
	drawnPath = regexp.MustCompile(`<path d="(M[^"Z]*)"[^>]*stroke:#E45756`)
	corner    = regexp.MustCompile(`[ML](-?[\d.]+),`)
)

const (
	wide   = 453.54 // points
	letter = 6.0    // of a wide font, in the mean
)

// TestChartsCanBeRead: the legend stands where no line is, and ticks are numbers that a person would choose.
func TestChartsCanBeRead(t *testing.T) {
	chart := postmortem.Chart{Name: "rates", Title: "Executions that succeeded", Unit: "%", Lines: []postmortem.Line{
		{Label: "2.0.0", XY: [][2]float64{{-17.5, 98}, {4, 99}}},
		{Label: "2.1.0-a-long-name", XY: [][2]float64{{-17.5, 100}, {0, 30}, {4.1, 100}}},
	}}
	raw, err := chart.SVG()
	if err != nil {
		t.Fatal(err)
	}
	svg := string(raw)
	rightmost := 0.0
	paths := drawnPath.FindAllStringSubmatch(svg, -1)
	for _, p := range paths {
		if corners := corner.FindAllStringSubmatch(p[1], -1); len(corners) == 3 { // the line itself, not its sample in the legend
			for _, c := range corners {
				rightmost = max(rightmost, decimal(t, c[1]))
			}
		}
	}
	if rightmost == 0 {
		t.Fatalf("the line is not among %q", paths)
	}
	texts := map[string]float64{}
	for _, m := range drawnText.FindAllStringSubmatch(svg, -1) {
		texts[m[2]] = decimal(t, m[1])
	}
	for _, label := range []string{"2.0.0", "2.1.0-a-long-name", "rollback"} {
		if at, ok := texts[label]; !ok || at <= rightmost || at+letter*float64(len(label)) > wide {
			t.Errorf("%s is written at %v, within the lines, which end at %v, or over the edge: %v", label, at, rightmost, texts)
		}
	}
	for _, tick := range []string{"-15", "-10", "-5", "0", "20", "40", "100"} {
		if _, ok := texts[tick]; !ok {
			t.Errorf("there is no tick at %s: %v", tick, texts)
		}
	}
	if strings.Contains(svg, ".00<") {
		t.Errorf("digits that say nothing are in %v", texts)
	}
}

func decimal(t *testing.T, text string) float64 {
	t.Helper()
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) {
		t.Fatalf("%q: %v", text, err)
	}
	return f
}

// When the evidence passed its threshold can be seen, however far it went on.
func TestEvidenceShowsWhenItPassedItsThreshold(t *testing.T) {
	for top, want := range map[float64]float64{20: 0, 800: 0.15} {
		c := postmortem.Chart{Name: "evidence", Title: "Evidence", Unit: "nats", Lines: []postmortem.Line{
			{Label: "beside", XY: [][2]float64{{-17, 0}, {0, 1}}}, {Label: "alone", XY: [][2]float64{{-17, 0}, {-16, 3}, {0, top}}},
		}}
		raw, err := c.SVG()
		if err != nil {
			t.Fatal(err)
		}
		var heights []float64
		for _, p := range drawnPath.FindAllStringSubmatch(string(raw), -1) {
			if ys := regexp.MustCompile(`[ML]-?[\d.]+,(-?[\d.]+)`).FindAllStringSubmatch(p[1], -1); len(ys) == 3 {
				for _, y := range ys {
					heights = append(heights, decimal(t, y[1]))
				}
			}
		}
		if len(heights) != 3 {
			t.Fatalf("the line is not there: %s", raw)
		}
		if part := (heights[1] - heights[0]) / (heights[2] - heights[0]); part < max(want, 3/top-0.01) || want == 0 && part > 3/top+0.01 {
			t.Errorf("up to %v the threshold stands at %.3f of the height", top, part)
		}
		if squeezed := strings.Contains(string(raw), "nats, log scale"); squeezed != (want > 0) || !strings.Contains(string(raw), ">10<") {
			t.Errorf("up to %v: %s", top, raw)
		}
	}
}
