package postmortem

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"strconv"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/specproxy/specproxy/internal/routing"
)

// Chart is one picture of a record, and the points that it shows: x in seconds since the commit of the rollback, y in the chart's own unit.
type Chart struct {
	// Name is that of its file, without the record's id and ".svg".
	Name  string `json:"name"`
	Title string `json:"title"`
	Unit  string `json:"unit"`
	Lines []Line `json:"lines"`
}

// Line of a chart. Step says that a value holds until the next one.
type Line struct {
	Label string       `json:"label"`
	Step  bool         `json:"step,omitempty"`
	XY    [][2]float64 `json:"xy"`
}

// Charts of one rollback, and of what follows from its evidence about one abandoned version. Those without a point are left out.
func Charts(r Rollback, a Analysis) []Chart {
	since := func(at time.Time) float64 { return at.Sub(r.CommittedAt).Seconds() }
	rates := Chart{Name: "rates", Title: "Executions that succeeded", Unit: "%"}
	for _, v := range []string{a.Target, a.Version} {
		line := Line{Label: v}
		for _, p := range a.Rates {
			if p.Version == v {
				line.XY = append(line.XY, [2]float64{since(p.At), 100 * p.Rate})
			}
		}
		rates.Lines = append(rates.Lines, line)
	}
	weights := Chart{Name: "weights", Title: "Weight by generation", Unit: "%"}
	for _, v := range []string{a.Target, a.Version} {
		line := Line{Label: v, Step: true}
		for _, s := range r.Evidence.Steps {
			line.XY = append(line.XY, [2]float64{since(s.At), float64(weightOf(s.Step, v)) * 100 / routing.Full})
		}
		if n := len(r.Evidence.Steps); n > 0 {
			last := r.Evidence.Steps[n-1]
			line.XY = append(line.XY, [2]float64{since(last.Until), float64(weightOf(last.Step, v)) * 100 / routing.Full})
		}
		weights.Lines = append(weights.Lines, line)
	}
	curve := Chart{Name: "evidence", Title: "Evidence against " + a.Version, Unit: "nats"}
	for _, c := range []struct {
		label  string
		points []Evidently
	}{{"beside " + a.Target, a.Curve}, {"alone", a.Alone}} {
		line := Line{Label: c.label, Step: true}
		for _, p := range c.points {
			line.XY = append(line.XY, [2]float64{since(p.At), p.Log})
		}
		curve.Lines = append(curve.Lines, line)
	}
	if xs := curve.span(); xs[1] > xs[0] {
		curve.Lines = append(curve.Lines, Line{Label: "threshold", XY: [][2]float64{{xs[0], a.Threshold}, {xs[1], a.Threshold}}})
	}
	running := Chart{Name: "drain", Title: "Executions running on " + a.Version, Unit: ""}
	line := Line{Label: a.Version}
	for _, p := range a.Running {
		line.XY = append(line.XY, [2]float64{since(p.At), float64(p.InFlight)})
	}
	running.Lines = append(running.Lines, line)
	var out []Chart
	for _, c := range []Chart{rates, weights, curve, running} {
		if xs := c.span(); xs[1] > xs[0] {
			out = append(out, c)
		}
	}
	return out
}

// span is the first and the last x of all lines.
func (c Chart) span() (xs [2]float64) {
	first := true
	for _, l := range c.Lines {
		for _, p := range l.XY {
			if first {
				xs, first = [2]float64{p[0], p[0]}, false
			}
			xs[0], xs[1] = min(xs[0], p[0]), max(xs[1], p[0])
		}
	}
	return xs
}

var lineColours = []color.RGBA{{0x4c, 0x78, 0xa8, 0xff}, {0xe4, 0x57, 0x56, 0xff}, {0x88, 0x88, 0x88, 0xff}}

// SVG draws the chart.
func (c Chart) SVG() ([]byte, error) {
	p := plot.New()
	p.Title.Text = c.Title
	p.X.Label.Text = "seconds since the rollback was committed"
	p.Y.Label.Text = c.Unit
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks{}, ticks{}
	legend := plot.NewLegend()
	legend.Top, legend.Left = true, true
	if c.Unit == "%" {
		p.Y.Min, p.Y.Max = 0, 100
	}
	p.Add(plotter.NewGrid())
	for i, l := range c.Lines {
		if len(l.XY) == 0 {
			continue
		}
		points := make(plotter.XYs, len(l.XY))
		for j, xy := range l.XY {
			points[j].X, points[j].Y = xy[0], xy[1]
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, fmt.Errorf("chart %s: %w", c.Name, err)
		}
		if l.Step {
			line.StepStyle = plotter.PostStep
		}
		line.Color, line.Width = lineColours[i%len(lineColours)], vg.Points(1.5)
		p.Add(line)
		legend.Add(l.Label, line)
	}
	if c.Unit == "nats" && p.Y.Max > evidenceLinear {
		p.Y.Scale, p.Y.Tick.Marker = squeezed{}, squeezed{}
		p.Y.Label.Text += ", log scale"
	}
	if xs := c.span(); xs[0] <= 0 && xs[1] >= 0 {
		commit, err := plotter.NewLine(plotter.XYs{{X: 0, Y: p.Y.Min}, {X: 0, Y: p.Y.Max}})
		if err != nil {
			return nil, fmt.Errorf("chart %s: %w", c.Name, err)
		}
		commit.Dashes = []vg.Length{vg.Points(3), vg.Points(3)}
		p.Add(commit)
		legend.Add("rollback", commit)
	}
	image := vgsvg.New(16*vg.Centimeter, 7*vg.Centimeter)
	canvas := draw.New(image)
	canvas.SetColor(color.White)
	canvas.Fill(canvas.Path())
	// The legend stands beside the plot: inside, it would hide what happened at the rollback. A reader's own font may be wider than the one that
	// was measured.
	width := widerFont*legend.Rectangle(canvas).Size().X + legendGap
	p.Draw(draw.Crop(canvas, 0, -width, 0, 0))
	legend.Draw(draw.Crop(canvas, canvas.Size().X-width+legendGap, 0, 0, -p.Title.TextStyle.Height(p.Title.Text)))
	var out bytes.Buffer
	if _, err := image.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("chart %s: %w", c.Name, err)
	}
	return out.Bytes(), nil
}

// evidenceLinear is up to where evidence is drawn on a linear scale. A long failure grows to hundreds of times its threshold, beside which nobody
// would see when that was passed.
const evidenceLinear = 30

// squeezed is a scale that is linear around 0 and logarithmic far from it, with its ticks.
type squeezed struct{}

func squeeze(x float64) float64 { return math.Copysign(math.Log1p(math.Abs(x)), x) }

// Normalize implements plot.Normalizer.
func (squeezed) Normalize(lo, hi, x float64) float64 {
	return (squeeze(x) - squeeze(lo)) / (squeeze(hi) - squeeze(lo))
}

// Ticks implements plot.Ticker.
func (squeezed) Ticks(lo, hi float64) (out []plot.Tick) {
	for _, at := range []float64{-1000, -100, -10, -1, 0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000} {
		if at >= lo && at <= hi {
			out = append(out, plot.Tick{Value: at, Label: strconv.FormatFloat(at, 'g', 6, 64)})
		}
	}
	return out
}

const (
	legendGap = vg.Length(12)
	widerFont = 1.3
)

// ticks are at multiples of 1, 2 or 5 times a power of ten, without digits that say nothing.
type ticks struct{}

// Ticks between two values, four of them at least.
func (ticks) Ticks(lo, hi float64) []plot.Tick {
	if !(hi > lo) {
		return nil
	}
	step := math.Pow(10, math.Floor(math.Log10((hi-lo)/wantedTicks)))
	for _, n := range []float64{5, 2} {
		if (hi-lo)/(n*step) >= wantedTicks {
			step *= n
			break
		}
	}
	var out []plot.Tick
	for i := math.Ceil(lo / step); i*step <= hi; i++ {
		out = append(out, plot.Tick{Value: i * step, Label: strconv.FormatFloat(i*step+0, 'g', 6, 64)})
	}
	return out
}

const wantedTicks = 4
