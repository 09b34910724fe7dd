package dashboard

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/specproxy/specproxy/internal/postmortem"
)

// colours is how many series have a colour of their own: style.css names them s0, s1, ….
const colours = 6

// A chart's size, and the space around its plot, in the units of its viewBox.
const (
	chartWidth, chartHeight                  = 640.0, 230.0
	plotLeft, plotRight, plotTop, plotBottom = 46.0, 12.0, 12.0, 34.0
)

// drawing collects SVG. Colours and fonts are style.css's, by class: a style in the page would be refused by our own policy.
type drawing struct{ strings.Builder }

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(d, format, args...) }

func (d *drawing) text(class string, x, y float64, text string) {
	d.add(`<text class="%s" x="%s" y="%s">%s</text>`, class, num(x), num(y), template.HTMLEscapeString(text))
}

func num(x float64) string { return strconv.FormatFloat(math.Round(x*10)/10, 'f', -1, 64) }

// lineChart draws a chart of a record, with the points that the record's export has.
func lineChart(about string, c postmortem.Chart) template.HTML {
	c = finite(c)
	x, y := bounds(c)
	left, width := plotLeft, chartWidth-plotLeft-plotRight
	top, height := plotTop, chartHeight-plotTop-plotBottom
	px := func(v float64) float64 { return left + width*(v-x[0])/(x[1]-x[0]) }
	py := func(v float64) float64 { return top + height*(1-(v-y[0])/(y[1]-y[0])) }
	var d drawing
	d.add(`<figure class="chart"><figcaption>%s`, template.HTMLEscapeString(c.Title))
	if c.Unit != "" {
		d.add(`, in %s`, template.HTMLEscapeString(c.Unit))
	}
	d.add(` <span class="dim">%s</span></figcaption>`, template.HTMLEscapeString(about))
	d.add(`<svg viewBox="0 0 %s %s" role="img" aria-label="%s">`, num(chartWidth), num(chartHeight), template.HTMLEscapeString(described(c)))
	for _, t := range ticks(y[0], y[1]) {
		d.add(`<path class="grid" d="M%s,%sH%s"/>`, num(left), num(py(t)), num(left+width))
		d.text("tick right", left-6, py(t)+4, short(t))
	}
	for _, t := range ticks(x[0], x[1]) {
		d.add(`<path class="grid" d="M%s,%sV%s"/>`, num(px(t)), num(top), num(top+height))
		d.text("tick middle", px(t), top+height+16, short(t))
	}
	d.text("tick middle", left+width/2, chartHeight-3, "seconds since the rollback was committed")
	if x[0] <= 0 && x[1] >= 0 {
		d.add(`<path class="commit" d="M%s,%sV%s"/>`, num(px(0)), num(top), num(top+height))
	}
	for i, l := range c.Lines {
		if len(l.XY) == 0 {
			continue
		}
		d.add(`<path class="line s%d" d="%s"/>`, i%colours, outline(l, px, py))
	}
	d.add(`</svg><p class="legend">`)
	for i, l := range c.Lines {
		if len(l.XY) > 0 {
			d.add(`<span><i class="key s%d"></i>%s</span>`, i%colours, template.HTMLEscapeString(l.Label))
		}
	}
	if x[0] <= 0 && x[1] >= 0 {
		d.add(`<span><i class="key commit"></i>the rollback</span>`)
	}
	d.add(`</p></figure>`)
	return template.HTML(d.String()) //nolint:gosec // every text in it is escaped
}

func outline(l postmortem.Line, px, py func(float64) float64) string {
	var d strings.Builder
	for i, p := range l.XY {
		switch {
		case i == 0:
			fmt.Fprintf(&d, "M%s,%s", num(px(p[0])), num(py(p[1])))
		case l.Step:
			fmt.Fprintf(&d, "H%sV%s", num(px(p[0])), num(py(p[1])))
		default:
			fmt.Fprintf(&d, "L%s,%s", num(px(p[0])), num(py(p[1])))
		}
	}
	return d.String()
}

// described says in words what each line does, for those who do not see it.
func described(c postmortem.Chart) string {
	var parts []string
	for _, l := range c.Lines {
		if n := len(l.XY); n > 0 {
			parts = append(parts, fmt.Sprintf("%s from %s to %s", l.Label, short(l.XY[0][1]), short(l.XY[n-1][1])))
		}
	}
	return c.Title + ": " + strings.Join(parts, "; ")
}

// finite leaves out what cannot be drawn.
func finite(c postmortem.Chart) postmortem.Chart {
	c.Lines = slices.Clone(c.Lines)
	for i, l := range c.Lines {
		c.Lines[i].XY = slices.DeleteFunc(slices.Clone(l.XY), func(p [2]float64) bool {
			return math.IsNaN(p[0]+p[1]) || math.IsInf(p[0], 0) || math.IsInf(p[1], 0)
		})
	}
	return c
}

// bounds of a chart's axes, never empty. Percentages have the whole range.
func bounds(c postmortem.Chart) (x, y [2]float64) {
	x, y = [2]float64{math.Inf(1), math.Inf(-1)}, [2]float64{0, math.Inf(-1)}
	for _, l := range c.Lines {
		for _, p := range l.XY {
			x = [2]float64{min(x[0], p[0]), max(x[1], p[0])}
			y = [2]float64{min(y[0], p[1]), max(y[1], p[1])}
		}
	}
	if c.Unit == "%" {
		y = [2]float64{0, 100}
	}
	if x[1] <= x[0] {
		x = [2]float64{0, 1}
	}
	if y[1] <= y[0] {
		y[1] = y[0] + 1
	}
	return x, y
}

// ticks are four to eight round numbers of a range.
func ticks(low, high float64) []float64 {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/4)))
	for _, m := range []float64{5, 2} {
		if (high-low)/(step*m) >= 4 {
			step *= m
			break
		}
	}
	var out []float64
	for t := math.Ceil(low/step) * step; t <= high+step/1e6; t += step {
		out = append(out, math.Round(t/step)*step)
	}
	return out
}

func short(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }

// Size of the picture of weights by generation.
const (
	columnWidth, columnGap, columnHeight = 34.0, 10.0, 110.0
)

// columns draws the weights by generation: one column each, oldest first. History is newest first.
func columns(history []generation) template.HTML {
	if len(history) == 0 {
		return ""
	}
	var d drawing
	width := float64(len(history)) * (columnWidth + columnGap)
	d.add(`<svg class="columns" viewBox="0 0 %s %s" width="%s" height="%s" role="img" aria-label="Weights by generation; the table below has the same">`,
		num(width), num(columnHeight+20), num(width), num(columnHeight+20))
	for i, g := range history {
		x := float64(len(history)-1-i) * (columnWidth + columnGap)
		y := columnHeight
		for _, w := range g.Weights {
			h := columnHeight * w.Part / 100
			y -= h
			d.add(`<rect class="fill s%d" x="%s" y="%s" width="%s" height="%s"><title>%s</title></rect>`, w.Colour, num(x+columnGap/2), num(y), num(columnWidth), num(h),
				template.HTMLEscapeString(fmt.Sprintf("generation %d: %s %s", g.Number, w.Version, w.Share)))
		}
		class := "tick middle"
		if g.PostMortem != "" {
			class = "tick middle bad"
		}
		d.text(class, x+columnGap/2+columnWidth/2, columnHeight+15, strconv.FormatUint(g.Number, 10))
	}
	d.add(`</svg>`)
	return template.HTML(d.String()) //nolint:gosec // every text in it is escaped
}
