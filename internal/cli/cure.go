package cli

import (
	"context"
	"fmt"
	"time"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// cure watches what a rollback heals: success of new executions on the target, the abandoned pool running dry, and cancelled clients
// that came back. It only looks: ending it at any moment loses nothing.
type cure struct {
	app      *app
	conn     *conn
	patients []*patient
}

// patient is one spec that was rolled back.
type patient struct {
	change *operatorv1.Change
	// succeeded and failed on the target up to the commit.
	succeeded, failed uint64
	// cancelled are the keys of clients that were told to come back, returned those that were seen on the target since.
	cancelled, returned map[string]bool
	// said is the newest line, so that it is not said twice.
	said string
}

// prepareCure notes where the targets stand. Without a rollback among the changes there is nothing to watch: nil.
func (a *app) prepareCure(ctx context.Context, c *conn, changes []*operatorv1.Change) *cure {
	result := &cure{app: a, conn: c}
	for _, change := range changes {
		if len(change.GetAbandoned()) == 0 {
			continue
		}
		p := &patient{change: change, cancelled: map[string]bool{}, returned: map[string]bool{}}
		if got, err := ask(ctx, c, client.GetSpec, &operatorv1.GetSpecRequest{Spec: change.GetSpec()}, 0); err == nil {
			pool := poolOf(got.GetSpec(), change.GetTarget())
			p.succeeded, p.failed = pool.GetSucceeded(), pool.GetFailed()
		}
		result.patients = append(result.patients, p)
	}
	if len(result.patients) == 0 {
		return nil
	}
	return result
}

func poolOf(spec *operatorv1.Spec, version string) *operatorv1.Pool {
	for _, v := range spec.GetVersions() {
		if v.GetVersion() == version {
			return v.GetPool()
		}
	}
	return nil
}

// watch prints a line whenever the figures have moved, until the time is over or ctx ends.
func (c *cure) watch(ctx context.Context, span time.Duration) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	interval := min(max(span/10, 100*time.Millisecond), 2*time.Second)
	for {
		for _, p := range c.patients {
			c.look(ctx, p, time.Since(began))
		}
		if !pause(ctx, interval) {
			break
		}
	}
	for _, p := range c.patients {
		c.app.out.field("next", "specctl get %s --watch", p.change.GetSpec())
	}
}

func (c *cure) look(ctx context.Context, p *patient, since time.Duration) {
	got, err := ask(ctx, c.conn, client.GetSpec, &operatorv1.GetSpecRequest{Spec: p.change.GetSpec()}, 0)
	if ctx.Err() != nil {
		return
	}
	line := "the control plane does not answer; the rollback stands"
	if err == nil {
		p.matchReturns(ctx, c.conn)
		line = p.describe(got.GetSpec())
	}
	if line != p.said {
		p.said = line
		c.app.out.field("cure", "+%.1fs %s", since.Seconds(), line)
	}
}

func (p *patient) describe(spec *operatorv1.Spec) string {
	target := p.change.GetTarget()
	pool := poolOf(spec, target)
	line := target + ": no outcome of a new execution yet"
	if good := success(since(pool.GetSucceeded(), p.succeeded), since(pool.GetFailed(), p.failed)); good != none {
		line = fmt.Sprintf("%s: %s new executions succeeded", target, good)
	}
	for _, d := range spec.GetDrains() {
		if d.GetGeneration() != p.change.GetGeneration() {
			continue
		}
		line += fmt.Sprintf("; %s: %d running, %d completed, %d handed over, %d cancelled",
			d.GetVersion(), d.GetInFlight(), d.GetCompleted(), d.GetHandedOver(), d.GetCancelled())
		if d.GetHeld() > 0 {
			line += fmt.Sprintf(", %d HELD for a person", d.GetHeld())
		}
	}
	if len(p.cancelled) > 0 {
		line += fmt.Sprintf("; at least %d of %d cancelled clients came back", len(p.returned), len(p.cancelled))
	}
	return line
}

// since is how much a counter has grown; a counter that went back was restarted with its process.
func since(now, before uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// matchReturns looks for the keys of cancelled clients among the target's executions. Short ones may pass between two looks, hence "at
// least". Clients without a key cannot be recognised and are not counted. Errors leave the figures as they are.
func (p *patient) matchReturns(ctx context.Context, c *conn) {
	for _, failed := range []bool{false, true} {
		list, err := ask(ctx, c, client.ListExecutions, &operatorv1.ListExecutionsRequest{Spec: p.change.GetSpec(), Failed: failed}, 0)
		if err != nil {
			return
		}
		for _, x := range list.GetExecutions() {
			if x.GetKey() != "" && x.GetDisposition() == "cancel" && x.GetVersion() != p.change.GetTarget() {
				p.cancelled[x.GetKey()] = true
			}
		}
		for _, x := range list.GetExecutions() {
			if x.GetVersion() == p.change.GetTarget() && p.cancelled[x.GetKey()] {
				p.returned[x.GetKey()] = true
			}
		}
	}
}
