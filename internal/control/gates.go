package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/specproxy/specproxy/internal/rollout"
	judge "github.com/specproxy/specproxy/internal/rollout/evidence"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/webhook"
)

// errands are questions to others that are under way: each at most once at a time, and none in the way of judging.
type errands struct {
	mu   sync.Mutex
	busy map[string]bool
	wg   sync.WaitGroup
}

// run starts an errand unless the same is under way. It ends with ctx, which wait waits for.
func (e *errands) run(key string, f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.busy[key] {
		return
	}
	if e.busy == nil {
		e.busy = map[string]bool{}
	}
	e.busy[key] = true
	e.wg.Go(func() {
		defer func() {
			e.mu.Lock()
			delete(e.busy, key)
			e.mu.Unlock()
		}()
		f()
	})
}

// question is what a webhook is told.
type question struct {
	Kind    string        `json:"kind"`
	Spec    string        `json:"spec"`
	Canary  string        `json:"canary"`
	Stable  string        `json:"stable"`
	Attempt int           `json:"attempt"`
	Step    int           `json:"step"`
	Gate    string        `json:"gate,omitempty"`
	Judge   string        `json:"judge,omitempty"`
	Weight  string        `json:"weight"`
	Why     string        `json:"why"`
	Verdict judge.Verdict `json:"verdict"`
	// Of notices.
	Approve  string `json:"approve,omitempty"`
	Rollback string `json:"rollback,omitempty"`
	Text     string `json:"text,omitempty"`
}

// answer is what is understood of one: pass, fail or insufficient, as verdicts are.
type answer struct {
	Result judge.Result `json:"result"`
	Reason string       `json:"reason"`
}

// maxReason is how much of another's words is kept.
const maxReason = 300

func (a answer) reason() string {
	if r := []rune(a.Reason); len(r) > maxReason {
		return string(r[:maxReason]) + "…"
	}
	return a.Reason
}

func asked(ro store.Rollout, kind string) question {
	return question{
		Kind: kind, Spec: ro.Spec, Canary: ro.Canary, Stable: ro.Stable, Attempt: ro.Attempt, Step: ro.Step + 2, Weight: rollout.Weight(ro.Weight()).String(),
		Why: ro.Why, Verdict: ro.Judge(time.Now()),
	}
}

// tendGates asks the webhooks of gates that wait, and gives notice of those that wait for people.
func (c *Controller) tendGates(ctx context.Context, ro store.Rollout, now time.Time) {
	if ro.Phase.Ended() {
		return
	}
	for i := range ro.Gates {
		g := ro.Gates[i]
		if !g.Due(now) {
			continue
		}
		id := fmt.Sprintf("%s/%s/%d/%d/%d/%d", ro.Spec, ro.Canary, ro.Attempt, ro.Step, i, g.Since.UnixNano())
		c.errands.run(id, func() {
			if g.Gate.Manual {
				c.giveNotice(ctx, ro, i, id)
			} else {
				c.askGate(ctx, ro, i, id)
			}
		})
	}
}

func (c *Controller) giveNotice(ctx context.Context, ro store.Rollout, gate int, id string) {
	g := ro.Gates[gate].Gate
	q := asked(ro, "approval")
	q.Gate = g.Name
	q.Approve, q.Rollback = c.Links(ro, gate, time.Now())
	q.Text = fmt.Sprintf("%s:%s waits at gate %s before step %d: %s", ro.Spec, ro.Canary, g.Name, ro.Step+2, ro.Why)
	err := c.hooks().Post(ctx, g.Notify, id, g.AskTimeout(), q, nil)
	why := "notice was given"
	if err != nil {
		why = "notice could not be given: " + err.Error()
	}
	c.settleGate(ctx, ro, gate, func(run rollout.Run) rollout.Run { return run.Answered(gate, err == nil, why, time.Now().UTC()) })
}

func (c *Controller) askGate(ctx context.Context, ro store.Rollout, gate int, id string) {
	g := ro.Gates[gate].Gate
	q := asked(ro, "gate")
	q.Gate = g.Name
	var a answer
	err := c.hooks().Post(ctx, g.Webhook, id, g.AskTimeout(), q, &a)
	switch a = verified(err, a); a.Result {
	case judge.Pass:
		c.settleGate(ctx, ro, gate, func(run rollout.Run) rollout.Run { return run.Opened(gate, "webhook", a.reason()) })
	case judge.Fail:
		c.failGate(ctx, ro, gate, a)
	case judge.Insufficient:
		c.settleGate(ctx, ro, gate, func(run rollout.Run) rollout.Run { return run.Answered(gate, false, a.reason(), time.Now().UTC()) })
	}
}

// sameGate says that the gate waits as it did when it was looked at.
func sameGate(now, seen store.Rollout, gate int) bool {
	return now.Canary == seen.Canary && now.Attempt == seen.Attempt && now.Step == seen.Step && now.Waits(gate) && now.Gates[gate].Since.Equal(seen.Gates[gate].Since)
}

// settleGate stores what became of a gate, if it still waits.
func (c *Controller) settleGate(ctx context.Context, seen store.Rollout, gate int, change func(rollout.Run) rollout.Run) {
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		now, ok := tx.Rollout(seen.Spec)
		if !ok || !sameGate(now, seen, gate) {
			return nil
		}
		now.Run = change(now.Run)
		tx.PutRollout(now)
		return nil
	})
	c.lament(ctx, "settle a gate", seen.Spec, err)
}

// failGate does what the plan says of a canary that failed: another judge said so.
func (c *Controller) failGate(ctx context.Context, seen store.Rollout, gate int, a answer) {
	why := fmt.Sprintf("gate %s: %s", seen.Gates[gate].Gate.Name, a.reason())
	err := c.retrying(seen.Spec, func(now store.Rollout) error {
		if !sameGate(now, seen, gate) || now.Acked {
			return nil
		}
		_, _, err := c.apply(ctx, engine(now), now, now, rollout.EventFail, why, time.Now().UTC())
		return err
	})
	c.lament(ctx, "fail at a gate", seen.Spec, err)
}

// retrying does something to a spec's rollout as it is now; evidence may come in between.
func (c *Controller) retrying(spec string, f func(store.Rollout) error) error {
	const tries = 5
	for try := 1; ; try++ {
		ro, ok := c.store.View().Rollout(spec)
		if !ok {
			return noRollout(spec)
		}
		if err := f(ro); !errors.Is(err, errMoved) || try == tries {
			return err
		}
	}
}

func noRollout(spec string) error {
	return &NotFound{Refused{Why: fmt.Sprintf("%s has no rollout", spec), Next: "specctl deploy " + spec + ":VERSION --canary"}}
}

// OpenGates opens the manual gates that a rollout stands at.
func (c *Controller) OpenGates(ctx context.Context, actor Actor, spec, reason string) (store.Rollout, error) {
	if actor.Automation {
		return store.Rollout{}, refuse("specctl canary approve "+spec+"   (a person)", "a manual gate wants a person")
	}
	var out store.Rollout
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		ro, ok := tx.Rollout(spec)
		if !ok {
			return noRollout(spec)
		}
		opened := false
		for i := range ro.Gates {
			if ro.Waits(i) && ro.Gates[i].Gate.Manual {
				ro.Run, opened = ro.Opened(i, actor.Name, reason), true
			}
		}
		if !opened {
			return refuse("specctl canary status "+spec, "the rollout of %s:%s stands at no gate that waits for a person (%s)", spec, ro.Canary, ro.Phase)
		}
		tx.PutRollout(ro)
		out = ro
		return nil
	})
	return out, err
}

// Follow does what a link is for, once.
func (c *Controller) Follow(ctx context.Context, token, by, reason string, now time.Time) (done string, err error) {
	l, err := c.openLink(token, now)
	if err != nil {
		return "", err
	}
	actor := Actor{Name: "link"}
	if by = strings.TrimSpace(by); by != "" {
		actor.Name = fmt.Sprintf("link (%s)", answer{Reason: by}.reason())
	}
	reason = answer{Reason: strings.TrimSpace(reason)}.reason()
	if l.Action == LinkRollback {
		err := c.retrying(l.Spec, func(ro store.Rollout) error {
			if err := l.fits(ro, true); err != nil {
				return err
			}
			why := fmt.Sprintf("rolled back at gate %s by %s%s", ro.Gates[l.Gate].Gate.Name, actor.Name, colon(reason))
			_, _, err := c.apply(ctx, actor, ro, ro, rollout.EventAbort, why, now)
			return err
		})
		return fmt.Sprintf("%s:%s is rolled back.", l.Spec, l.Canary), err
	}
	_, err = c.store.Update(ctx, func(tx *store.Tx) error {
		ro, found := tx.Rollout(l.Spec)
		if err := l.fits(ro, found); err != nil {
			return err
		}
		ro.Run = ro.Opened(l.Gate, actor.Name, reason)
		tx.PutRollout(ro)
		return nil
	})
	return fmt.Sprintf("The gate of %s:%s is open.", l.Spec, l.Canary), err
}

func colon(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

// hooks signs with a key that all replicas derive alike.
func (c *Controller) hooks() *webhook.Client { return webhook.New(c.derived("webhooks")) }

// WebhookSecret is what receivers check signatures with.
func (c *Controller) WebhookSecret() string { return c.hooks().Secret() }
