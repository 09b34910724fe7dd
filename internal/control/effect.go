package control

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
)

type effectKey struct {
	spec       string
	generation uint64
}

// Effect is how far one route generation has come: acknowledged by every proxy that routes the spec, or (a rollback) by every instance of
// what it abandons. Either alone is enough.
type Effect struct {
	Route                      routing.Route
	Effective                  bool
	By                         string
	EffectiveAt                time.Time
	ProxiesAcked, ProxiesTotal int
	FencesAcked, FencesTotal   int
	Laggards, Refusals         []string
	LastAdmissionAt            time.Time
	LastAdmissionID            string
}

// Effect of a generation of a spec; 0 is the one in force. It answers at once, and notes when the generation was first seen effective.
func (c *Controller) Effect(spec string, generation uint64) (Effect, error) {
	out, err := c.Reach(spec, generation)
	if err == nil && out.Effective {
		out.EffectiveAt = c.firstEffective(out.Route)
	}
	return out, err
}

// Reach is Effect for who only looks, now and then: it notes nothing, and EffectiveAt is zero if nobody has waited for the generation.
func (c *Controller) Reach(spec string, generation uint64) (Effect, error) {
	view := c.store.View()
	route, ok := view.Route(spec)
	if !ok {
		return Effect{}, &NotFound{Refused{Why: "spec " + spec + " has no route", Next: "specctl versions " + spec}}
	}
	if generation != 0 && generation != route.Generation {
		if route, ok = view.Generation(spec, generation); !ok {
			return Effect{}, &NotFound{Refused{Why: "spec " + spec + " has no such generation", Next: "specctl get " + spec}}
		}
	}
	out := Effect{Route: route}
	proxies := c.discovery.Effect(spec, route.Generation)
	out.ProxiesAcked, out.ProxiesTotal = proxies.AckedCount(), proxies.Total()
	// With no proxy known, nobody routes the spec: that proves a deploy (nothing to move) but no rollback.
	byRoute := out.ProxiesAcked == out.ProxiesTotal && (out.ProxiesTotal > 0 || len(route.Abandoned) == 0)
	for _, p := range proxies.Pending {
		out.Laggards = append(out.Laggards, "proxy "+p.Node+": "+p.Reason)
	}
	if proxies.MorePending > 0 {
		out.Laggards = append(out.Laggards, fmt.Sprintf("%d more proxies at other replicas: have not acknowledged it yet", proxies.MorePending))
	}
	for _, p := range proxies.Gone {
		out.Laggards = append(out.Laggards, "proxy "+p.Node+": not connected, last seen "+p.LastSeen.UTC().Format(time.RFC3339)+"; unproven")
	}
	for _, p := range proxies.Refused {
		out.Refusals = append(out.Refusals, "proxy "+p.Node+": "+p.Refusal)
	}
	byFence := len(route.Abandoned) > 0
	for _, version := range route.Abandoned {
		fences := c.fleet.Pool(view, spec, version).Fence
		out.FencesAcked += fences.Acked
		out.FencesTotal += fences.Total
		out.Laggards = append(out.Laggards, fences.Laggards...)
		if fences.LastAdmissionAt.After(out.LastAdmissionAt) {
			out.LastAdmissionAt, out.LastAdmissionID = fences.LastAdmissionAt, fences.LastAdmissionID
		}
	}
	byFence = byFence && out.FencesAcked == out.FencesTotal
	switch {
	case byRoute && byFence:
		out.By = "route and fence"
	case byRoute:
		out.By = "route"
	case byFence:
		out.By = "fence"
	}
	out.Effective = out.By != ""
	c.mu.Lock()
	defer c.mu.Unlock()
	out.EffectiveAt = c.effects[effectKey{spec, route.Generation}]
	return out, nil
}

// proofWait is how long WaitEffect goes on for the rest of the proof once the generation is effective: the slower of the two barriers is
// usually milliseconds behind, and a person wants to read that both hold.
const proofWait = 300 * time.Millisecond

// WaitEffect returns when the generation is effective and either all of the proof has come in or a moment has passed, when a proxy refused
// it (but for a rollback, whose fence takes effect without that proxy), or when ctx ends (which is no error).
func (c *Controller) WaitEffect(ctx context.Context, spec string, generation uint64) (Effect, error) {
	var enough <-chan time.Time
	for {
		acked, fenced := c.discovery.Changes(), c.fleet.Changes()
		e, err := c.Effect(spec, generation)
		if err != nil || e.Effective && len(e.Laggards) == 0 || len(e.Refusals) > 0 && len(e.Route.Abandoned) == 0 {
			return e, err
		}
		if e.Effective && enough == nil {
			enough = time.After(proofWait)
		}
		for again := false; !again; {
			select {
			case <-acked:
				// Thousands of proxies answer one after the other: it is the last of them that is waited for.
				acked = c.discovery.Changes()
				again = len(e.Route.Abandoned) > 0 || !c.discovery.Waits(spec, e.Route.Generation)
			case <-fenced:
				again = true
			case <-enough:
				return e, nil
			case <-ctx.Done():
				return c.Effect(spec, generation)
			}
		}
	}
}

// firstEffective remembers when a generation was first seen effective.
func (c *Controller) firstEffective(route routing.Route) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := effectKey{route.Spec, route.Generation}
	at, ok := c.effects[key]
	if !ok {
		at = time.Now().UTC()
		c.effects[key] = at
		c.metrics.seen(route, at, c.started)
		for old := range c.effects { // only the newest few generations of a spec are asked about
			if old.spec == key.spec && old.generation+16 < key.generation {
				delete(c.effects, old)
			}
		}
	}
	return at
}

// followEffects writes the proof of every rollback into its post-mortem, also after a restart in between.
func (c *Controller) followEffects(ctx context.Context) error {
	for {
		acked, fenced := c.discovery.Changes(), c.fleet.Changes()
		view := c.store.View()
		for _, record := range view.OpenPostMortems() {
			for _, r := range record.Rollbacks {
				if r.Effect != nil && r.Effect.ProxiesAcked == r.Effect.Proxies && r.Effect.FencesAcked == r.Effect.Fences {
					continue
				}
				if e, err := c.Effect(r.Spec, r.Generation); err == nil && e.Effective {
					c.recordEffect(ctx, record.ID, r, e)
				}
			}
		}
		if err := c.wait(ctx, view.Revision(), acked, fenced); err != nil {
			return err
		}
	}
}

func (c *Controller) recordEffect(ctx context.Context, id string, r postmortem.Rollback, e Effect) {
	proof := postmortem.Effect{
		At: e.EffectiveAt, By: e.By, Proxies: e.ProxiesTotal, ProxiesAcked: e.ProxiesAcked, Fences: e.FencesTotal, FencesAcked: e.FencesAcked,
		Laggards: e.Laggards, LastAdmissionAt: e.LastAdmissionAt, LastAdmissionID: e.LastAdmissionID,
	}
	if r.Effect != nil {
		proof.At = r.Effect.At // the first barrier counts; the second completes the proof
		if proof.ProxiesAcked == r.Effect.ProxiesAcked && proof.FencesAcked == r.Effect.FencesAcked && proof.Proxies == r.Effect.Proxies && proof.Fences == r.Effect.Fences {
			return // nothing new to say
		}
	}
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		record, ok := tx.PostMortem(id)
		if !ok || record.Closing != nil {
			return nil
		}
		if now, ok := record.Rollback(r.Spec); !ok || !sameProof(now.Effect, r.Effect) {
			return nil // another replica has just written it
		}
		tx.AppendPostMortem(id, time.Now().UTC(), postmortem.System, postmortem.Proven{Spec: r.Spec, Effect: proof})
		return nil
	})
	if err != nil && ctx.Err() == nil {
		c.log.Error("record the effect of a rollback", zap.String("postmortem", id), zap.Error(err))
	}
}

func sameProof(a, b *postmortem.Effect) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.ProxiesAcked == b.ProxiesAcked && a.FencesAcked == b.FencesAcked && a.Proxies == b.Proxies && a.Fences == b.Fences
}

// wait returns when the store has moved past a revision, a channel fires, or ctx ends (then its error).
func (c *Controller) wait(ctx context.Context, after int64, channels ...<-chan struct{}) error {
	return c.waitUntil(ctx, after, nil, channels...)
}

// waitUntil is wait, to a moment at the latest.
func (c *Controller) waitUntil(ctx context.Context, after int64, late <-chan time.Time, channels ...<-chan struct{}) error {
	waitCtx, stop := context.WithCancel(ctx)
	defer stop()
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		_, _ = c.store.Wait(waitCtx, after)
	}()
	var a, b <-chan struct{}
	if len(channels) > 0 {
		a = channels[0]
	}
	if len(channels) > 1 {
		b = channels[1]
	}
	select {
	case <-moved:
	case <-a:
	case <-b:
	case <-late:
	case <-ctx.Done():
	}
	stop()
	<-moved
	return ctx.Err()
}
