package postmortem

import (
	"strings"
	"testing"
)

// When the evidence passed its threshold can be seen, however far it went on.
func TestEvidenceIsCutOffFarAboveItsThreshold(t *testing.T) {
	for top, cut := range map[float64]bool{20: false, 800: true} {
		c := Chart{Name: "evidence", Title: "Evidence", Unit: "nats", ceiling: 30, Lines: []Line{{Label: "alone", XY: [][2]float64{{-17, 0}, {-16, 3}, {0, top}}}}}
		raw, err := c.SVG()
		if err != nil {
			t.Fatal(err)
		}
		if svg := string(raw); strings.Contains(svg, "nats, cut off at 30") != cut || strings.Contains(svg, ">800<") || strings.Contains(svg, ">600<") || !strings.Contains(svg, ">10<") {
			t.Errorf("up to %v: %s", top, svg)
		}
	}
}
