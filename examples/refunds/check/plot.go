package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// Layout of the plot, in pixels.
const (
	plotWidth, plotHeight = 960, 470
	plotLeft, plotRight   = 56, 940
	successTop, successBy = 70, 250
	sharesTop, sharesBy   = 310, 410
	binsPerMinute         = 2
)

var versionColours = []string{"#4c78a8", "#e45756", "#54a24b", "#b279a2", "#f58518"}

// bin is the refunds whose first attempt was sent within half a story minute.
type bin struct {
	sent, succeeded int
	begun           map[string]int
}

// plot draws, over the story's time and by when each refund was first sent, the share that succeeded at the first attempt and the
// version whose agent began it, which is the traffic's split as the customers met it.
func plot(cases []*refundCase, f refund.Facts) []byte {
	bins, versions := fill(cases, f)
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n",
		plotWidth, plotHeight, plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, plotHeight)
	text(&b, plotLeft, 20, "start", fmt.Sprintf("Refunds that succeeded at the first attempt, and who began them (seed %d)", f.Seed))
	frame(&b, f, successTop, successBy, "success")
	frame(&b, f, sharesTop, sharesBy, "began")
	for i, v := range versions {
		colour := versionColours[i%len(versionColours)]
		fmt.Fprintf(&b, `<path d="%s" fill="%s" fill-opacity="0.75"/>`+"\n", area(bins, versions[:i], v, f), colour)
		x := plotLeft + i*200
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/>`+"\n", x, plotHeight-24, colour)
		text(&b, float64(x+18), plotHeight-14, "start", v)
	}
	fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="#222" stroke-width="2"/>`+"\n", successLine(bins, f))
	for i, m := range f.Marks {
		x := across(f, f.Clock.Story(m.At))
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#b00" stroke-dasharray="4 3"/>`+"\n", x, successTop-14*(i%2)-6, x, sharesBy)
		text(&b, x+3, float64(successTop-14*(i%2)-8), "start", m.Label)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func fill(cases []*refundCase, f refund.Facts) ([]bin, []string) {
	bins := make([]bin, (f.Clock.EndMinute-f.Clock.StartMinute)*binsPerMinute)
	var versions []string
	for _, c := range cases {
		i := int(math.Floor((f.Clock.Story(c.first().SentAt) - float64(f.Clock.StartMinute)) * binsPerMinute))
		if i < 0 || i >= len(bins) {
			continue
		}
		bins[i].sent++
		if c.succeeded(c.first()) {
			bins[i].succeeded++
		}
		if len(c.journal) == 0 {
			continue
		}
		v := c.journal[0].Version
		if !slices.Contains(versions, v) {
			versions = append(versions, v)
		}
		if bins[i].begun == nil {
			bins[i].begun = map[string]int{}
		}
		bins[i].begun[v]++
	}
	return bins, versions
}

// across is the x of a story time in minutes since midnight.
func across(f refund.Facts, minutes float64) float64 {
	span := float64(f.Clock.EndMinute - f.Clock.StartMinute)
	return plotLeft + (plotRight-plotLeft)*(minutes-float64(f.Clock.StartMinute))/span
}

func minuteOf(f refund.Facts, edge int) float64 {
	return float64(f.Clock.StartMinute) + float64(edge)/binsPerMinute
}

func frame(b *bytes.Buffer, f refund.Facts, top, bottom int, title string) {
	for percent := 0; percent <= 100; percent += 25 {
		y := float64(bottom) - float64(bottom-top)*float64(percent)/100
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#ddd"/>`+"\n", plotLeft, y, plotRight, y)
		text(b, plotLeft-6, y+4, "end", fmt.Sprintf("%d %%", percent))
	}
	for m := f.Clock.StartMinute; m <= f.Clock.EndMinute; m += 5 {
		text(b, across(f, float64(m)), float64(bottom+16), "middle", fmt.Sprintf("%02d:%02d", m/60, m%60))
	}
	text(b, plotLeft+4, float64(bottom-6), "start", title)
}

func text(b *bytes.Buffer, x, y float64, anchor, s string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="#222">%s</text>`+"\n", x, y, anchor, html.EscapeString(s))
}

func successLine(bins []bin, f refund.Facts) string {
	var points []string
	for i, one := range bins {
		if one.sent == 0 {
			continue
		}
		y := float64(successBy) - float64(successBy-successTop)*float64(one.succeeded)/float64(one.sent)
		points = append(points, fmt.Sprintf("%.1f,%.1f", across(f, minuteOf(f, i)+0.5/binsPerMinute), y))
	}
	return strings.Join(points, " ")
}

// area is the band of one version, stacked on those below it.
func area(bins []bin, below []string, version string, f refund.Facts) string {
	var upper, lower []string
	for i, one := range bins {
		base, total := 0, 0
		for v, n := range one.begun {
			total += n
			if slices.Contains(below, v) {
				base += n
			}
		}
		low, high := 0.0, 0.0
		if total > 0 {
			low, high = float64(base)/float64(total), float64(base+one.begun[version])/float64(total)
		}
		for _, edge := range []int{i, i + 1} {
			x := across(f, minuteOf(f, edge))
			upper = append(upper, fmt.Sprintf("%.1f %.1f", x, sharesBy-(sharesBy-sharesTop)*high))
			lower = append(lower, fmt.Sprintf("%.1f %.1f", x, sharesBy-(sharesBy-sharesTop)*low))
		}
	}
	slices.Reverse(lower)
	return "M" + strings.Join(append(upper, lower...), " L") + " Z"
}
