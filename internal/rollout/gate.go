package rollout

import (
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
)

// Gate stands before a step: it takes more than evidence to open it. Judging goes on meanwhile.
type Gate struct {
	Name string `json:"name" yaml:"name"`
	// Manual: a person opens it, by a command or a link.
	Manual bool `json:"manual,omitempty" yaml:"manual,omitempty"`
	// Notify is a URL that a manual gate's links are posted to.
	Notify string `json:"notify,omitempty" yaml:"notify,omitempty"`
	// LinksFor is how long links are good. Default: 24h.
	LinksFor Duration `json:"linksFor,omitempty" yaml:"linksFor,omitempty"`
	// Webhook is a URL that is asked whether the gate opens.
	Webhook string `json:"webhook,omitempty" yaml:"webhook,omitempty"`
	// Timeout of one question or notice. Default: 10s.
	Timeout Duration `json:"timeout,omitempty" yaml:"timeout,omitempty"`
	// Every is how long until a gate that did not open, or did not answer, is asked again. Default: 30s.
	Every Duration `json:"every,omitempty" yaml:"every,omitempty"`
}

// Defaults of gates.
const (
	defaultTimeout  = Duration(10 * time.Second)
	defaultEvery    = Duration(30 * time.Second)
	defaultLinksFor = Duration(24 * time.Hour)
)

// maxGates before one step.
const maxGates = 4

// AskTimeout is how long an answer may take; it is the gate's or the default, as are the next two.
func (g Gate) AskTimeout() time.Duration { return time.Duration(or(g.Timeout, defaultTimeout)) }

// AskEvery is how long until it is asked again.
func (g Gate) AskEvery() time.Duration { return time.Duration(or(g.Every, defaultEvery)) }

// LinkLife is how long a link is good.
func (g Gate) LinkLife() time.Duration { return time.Duration(or(g.LinksFor, defaultLinksFor)) }

// GateState is one gate that a rollout stands at.
type GateState struct {
	Gate Gate `json:"gate"`
	// Since when the rollout stands there.
	Since time.Time `json:"since"`
	Open  bool      `json:"open,omitempty"`
	// By whom it was opened, and why; or why it is not open.
	By  string `json:"by,omitempty"`
	Why string `json:"why,omitempty"`
	// Asked is how often the webhook was asked, or notice was tried to give; Next is when that is due again.
	Asked int       `json:"asked,omitempty"`
	Next  time.Time `json:"next,omitzero"`
	// Noticed: the links have been taken.
	Noticed bool `json:"noticed,omitempty"`
}

// Due is what must be sent for the gate, or answered by somebody else, at this time.
func (g *GateState) Due(now time.Time) bool {
	if g.Open || now.Before(g.Next) {
		return false
	}
	return g.Gate.Webhook != "" || g.Gate.Notify != "" && !g.Noticed
}

func (p Plan) checkGates(at string, gates []Gate, ps *problems) {
	if len(gates) > maxGates {
		ps.add(at, "%d of them, at most %d", len(gates), maxGates)
	}
	for i, g := range gates {
		field := fmt.Sprintf("%s[%d]", at, i)
		if g.Name == "" || slices.ContainsFunc(gates[:i], func(o Gate) bool { return o.Name == g.Name }) {
			ps.add(field+".name", "gates before one step need names of their own: %q", g.Name)
		}
		if g.Manual == (g.Webhook != "") {
			ps.add(field, "gate %s is either manual or a webhook", g.Name)
		}
		if !g.Manual && (g.Notify != "" || g.LinksFor != 0) {
			ps.add(field, "gate %s: notify and linksFor are for manual gates", g.Name)
		}
		for name, u := range map[string]string{"webhook": g.Webhook, "notify": g.Notify} {
			if u != "" {
				checkURL(field+"."+name, u, ps)
			}
		}
	}
}

// Posts are the URLs that are posted to while the plan is followed.
func (p Plan) Posts() []string {
	var out []string
	for _, s := range p.Steps {
		for _, g := range s.Gates {
			out = append(out, g.Webhook, g.Notify)
		}
	}
	for _, j := range p.Judges {
		out = append(out, j.Webhook)
	}
	return slices.DeleteFunc(out, func(u string) bool { return u == "" })
}

// checkURL takes what can be posted to.
func checkURL(field, text string, ps *problems) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		ps.add(field, "%q is no URL that can be asked: write http:// or https://, a host, and no password", text)
	}
}

// nextGates stand before the step that comes after the one in force; the bake has none.
func (r *Run) nextGates() []Gate {
	if r.Step+1 < len(r.Plan.Steps) {
		return r.Plan.Steps[r.Step+1].Gates
	}
	return nil
}

// stopAt makes the rollout stand at the gates before its next step.
func (r *Run) stopAt(gates []Gate, why string, now time.Time) {
	r.Phase = Gated
	r.Gates = make([]GateState, len(gates))
	for i, g := range gates {
		r.Gates[i] = GateState{Gate: g, Since: now}
	}
	r.Why = fmt.Sprintf("at %s before step %d: %s", r.closed(), r.Step+2, why)
}

// closed names the gates that are not open.
func (r *Run) closed() string {
	out := ""
	for _, g := range r.Gates {
		if g.Open {
			continue
		}
		if out != "" {
			out += ", "
		}
		out += g.Gate.Name
	}
	if out == "" {
		return "open gates"
	}
	return "gate " + out
}

// Waits says that a gate is there and waits to be opened.
func (r *Run) Waits(gate int) bool {
	return !r.Phase.Ended() && gate >= 0 && gate < len(r.Gates) && !r.Gates[gate].Open
}

// Opened returns the rollout with a gate open.
func (r Run) Opened(gate int, by, why string) Run {
	r.Gates = slices.Clone(r.Gates)
	g := &r.Gates[gate]
	g.Open, g.By, g.Why, g.Next = true, by, why, time.Time{}
	return r
}

// Answered returns the rollout with what became of a question or a notice.
func (r Run) Answered(gate int, noticed bool, why string, now time.Time) Run {
	r.Gates = slices.Clone(r.Gates)
	g := &r.Gates[gate]
	g.Noticed, g.Why, g.Next = g.Noticed || noticed, why, now.Add(g.Gate.AskEvery())
	g.Asked++
	return r
}

// tickGates goes on once all gates are open, the step in force still has what it asks for, and no judge is silent.
func (r *Run) tickGates(v evidence.Verdict, now time.Time) (Event, string) {
	why := "gates open:"
	for _, g := range r.Gates {
		if !g.Open {
			return "", ""
		}
		why += fmt.Sprintf(" %s (%s%s)", g.Gate.Name, g.By, because(g.Why))
	}
	if v.Broken || r.Step >= 0 && r.Plan.Steps[r.Step].Until == UntilEvidence && v.Result != evidence.Pass || r.silence(now) != "" {
		return "", ""
	}
	return EventOpen, why
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}
