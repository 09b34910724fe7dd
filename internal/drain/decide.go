package drain

import (
	"sync/atomic"
	"time"
)

// MinRetry is the shortest wait a retry signal asks for where the contract gives no range: Retry-After counts whole seconds.
const MinRetry = time.Second

// View is what Decide sees of one execution.
type View struct {
	Method, Path string
	Started      time.Time
	// Deadline is the request's own, zero if it has none.
	Deadline time.Time
	// GRPC: it is a gRPC call, and Path names its method.
	GRPC bool
	// Headers are those request headers that rules look at, by lower-case name.
	Headers map[string]string
	// Tools that it has used, and the A2A skill that it asks for.
	Tools []string
	Skill string
	// Effects is the worst class that was declared, observed, granted or reported; empty: silence.
	Effects Effects
	// Responded: a response byte has been sent to the client.
	Responded bool
	// Replayable: the request has ended and can be sent again.
	Replayable bool
	// HandedOver: it has been handed over once already.
	HandedOver bool
	// Conversation: several exchanges belong to it.
	Conversation bool
	// Redirectable: a proxy will follow a redirect of it. Asked only at a shutdown where nobody is known to forward to.
	Redirectable bool
}

// Decision is what an order does to one execution.
type Decision struct {
	// Disposition is complete, handover or cancel.
	Disposition Disposition
	// Kind of the order.
	Kind Kind
	// Deadline ends `complete`; zero: it runs until it ends.
	Deadline time.Time
	// Within is what the contract or the order gave it of that, whatever the request's own deadline; 0: nothing.
	Within time.Duration
	// Then follows the deadline: cancel or hold. Empty without one.
	Then Disposition
	// RetryAfter is the range of waits that the retry signal asks for, wherever one may have to be sent: also where a hand-over fails, or at
	// the deadline. Zero if the contract gives none and the order's spread is not known.
	RetryAfter Range
	// Rule is the index of the rule that matched, -1 for the default.
	Rule int
	// Why is a sentence for people.
	Why string
	// Effects is the class the rules were matched against; never empty.
	Effects Effects
	// End is when a conversation is over even if it is held; zero: never.
	End time.Time
}

// Cuts says that the execution ends here, by hand-over or cancel. It is final.
func (d Decision) Cuts() bool { return d.Disposition == Handover || d.Disposition == Cancel }

// Decide is what an order that abandons the version in favour of target would do to the execution. The contract must be valid.
func Decide(c Contract, x View, target string, now time.Time) Decision {
	return newPlan(c).decide(x, &Order{Target: target}, Range{}, now)
}

// Under returns what this very order does to any execution: of its kind, with its default deadline and its spread. The contract must be valid.
func Under(c Contract, o Order) func(x View, now time.Time) Decision {
	p := newPlan(c)
	return func(x View, now time.Time) Decision { return p.decide(x, &o, o.retry(), now) }
}

// plan is a contract with the labels of its rules, made once for many decisions.
type plan struct {
	Contract
	// labels begin every Why; the default's is the last one.
	labels []string
	// cancels has the words of the newest cancel: of a crowd they are the same for all.
	cancels atomic.Pointer[cancelling]
}

// cancelling is what a cancel is called.
type cancelling struct {
	retry Range
	words string
}

func newPlan(c Contract) *plan {
	labels := make([]string, 0, len(c.Rules)+1)
	for i := range c.Rules {
		labels = append(labels, ruleName(i)+" ("+c.Rules[i].When.String()+"): ")
	}
	return &plan{Contract: c, labels: append(labels, "default: ")}
}

// decide takes the range that retry signals are spread over where the contract gives none.
func (p *plan) decide(x View, o *Order, retry Range, now time.Time) Decision {
	effects := p.effective(x.Effects)
	action, rule, label := p.governing(o.Kind, &x, effects, now)
	if !action.RetryAfter.IsZero() {
		retry = action.RetryAfter
	}
	d := Decision{Disposition: action.OnRollback, Kind: o.Kind, Rule: rule, Effects: effects, Why: label}
	if d.Disposition == Handover {
		if obstacle := p.obstacle(x, o, rule >= 0 && p.Rules[rule].When.Effects.Has(effects), effects); obstacle != "" {
			d.Disposition = action.Else
			d.Why += "handover is impossible (" + obstacle + "), so "
		}
	}
	switch d.Disposition {
	case Handover:
		d.RetryAfter = retry
		d.Why += "handover to " + o.Target
	case Cancel:
		if effects == EffectsIrreversible {
			d.Why += "cancel, but " + neverCut + ": "
			p.spare(&d, x, action, now)
			p.cap(&d, x, o, now)
			return d
		}
		d.RetryAfter = retry
		d.Why += p.cancelWords(retry)
	case Complete, Hold:
		within, then := action.Within, action.Then
		if within == 0 && o.DefaultWithin > 0 {
			within, then = Duration(o.DefaultWithin), Hold
		}
		d.complete(x, within, then, now)
		p.cap(&d, x, o, now)
		if d.Then == Cancel {
			d.RetryAfter = retry
		}
	}
	return d
}

const neverCut = "an irreversible effect is never cut"

// obstacle says why the execution cannot be handed over, or "". What it did is done again by the target, so an effect worse than reading
// needs a rule (or a person) that names its class, and an irreversible one is never repeated.
func (p *plan) obstacle(x View, o *Order, named bool, effects Effects) string {
	switch {
	case x.HandedOver:
		return "it was handed over before"
	case x.Responded:
		return "a response byte was sent"
	case !x.Replayable:
		return "the request has not ended or cannot be repeated"
	case effects == EffectsIrreversible:
		return "effects are irreversible"
	case effects != EffectsNone && effects != EffectsReadonly && !named:
		return "effects are " + string(effects) + " and the rule does not name them"
	case o.Kind == KindShutdown && o.Alone:
		return "no other instance of " + o.Target + " is ready"
	case o.Kind == KindShutdown && !o.Forwards && !x.Redirectable:
		return "no proxy would follow a redirect of it, and no other instance is known by address"
	case o.Kind != KindShutdown && !p.Compatible(o.Target):
		return o.Target + " is not in compatibleWith " + p.CompatibleWith
	}
	return ""
}

// spare completes what the action would have cancelled. Its time is the action's, else the default's; without either it is held at once, since
// the contract gave it no time to go on.
func (p *plan) spare(d *Decision, x View, action Action, now time.Time) {
	within := action.Within
	if within == 0 {
		within = p.Default.Within
	}
	d.Disposition = Complete
	if within == 0 {
		d.Deadline, d.Then = now, Hold
		d.Why += "complete, held for a person at once"
		return
	}
	d.complete(x, within, Hold, now)
}

// complete sets the deadline: the shorter one of the contract's and the request's own. At its own deadline the client has given up, so a
// contract without deadline lets it be cancelled then.
func (d *Decision) complete(x View, within Duration, then Disposition, now time.Time) {
	d.Disposition, d.Within = Complete, time.Duration(within)
	words := "complete"
	if within != 0 {
		d.Deadline = now.Add(time.Duration(within))
		words = "complete within " + within.String()
	}
	if !x.Deadline.IsZero() && (within == 0 || x.Deadline.Before(d.Deadline)) {
		d.Deadline = x.Deadline
		words = "complete until the request's own deadline"
		if then == "" {
			then = Cancel
		}
	}
	d.Why += words
	if d.Deadline.IsZero() {
		d.Why += "; it runs until it ends"
		return
	}
	d.Then = then
	if d.Effects == EffectsIrreversible && then == Cancel {
		d.Then = Hold
		d.Why += ", then hold, since " + neverCut
		return
	}
	d.Why += ", then " + string(then)
}

// cap ends a conversation under an abandoned version at maxTotal, and keeps its deadline before that.
func (p *plan) cap(d *Decision, x View, o *Order, now time.Time) {
	if p.MaxTotal == 0 || o.Kind == KindPromote || o.Kind == KindShutdown {
		return
	}
	d.End = now.Add(time.Duration(p.MaxTotal))
	if !x.Conversation {
		return // until a second exchange joins it
	}
	d.Why += "; a conversation, for " + p.MaxTotal.String() + " in all"
	if d.Deadline.IsZero() || d.End.Before(d.Deadline) {
		d.Deadline, d.Within, d.Then = d.End, time.Duration(p.MaxTotal), Cancel
		if d.Effects == EffectsIrreversible {
			d.Then = Hold
		}
	}
}

func (p *plan) cancelWords(retry Range) string {
	if retry.IsZero() {
		return string(Cancel)
	}
	c := p.cancels.Load()
	if c == nil || c.retry != retry {
		c = &cancelling{retry, string(Cancel) + "; retry in " + retry.String()}
		p.cancels.Store(c)
	}
	return c.words
}
