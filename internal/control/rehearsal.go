package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/specproxy/specproxy/internal/rollout"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/synthetic"
	"github.com/specproxy/specproxy/internal/versions"
)

const (
	// inARow is how many synthetic executions must meet the same, over connections of their own: an Envoy acknowledges before its workers have switched.
	inARow = 4
	// soundEvery is how long until the next one after one that met something else.
	soundEvery = 2 * time.Millisecond
	// closedTries is how often it is tried to send one through a proxy at all.
	closedTries = 3
	// soundings bounds how many proxies are tried at a time.
	soundings = 64
	// recheckEvery is how often pools, and the rollout itself, are looked at while proxies are waited for.
	recheckEvery = 100 * time.Millisecond
	// answerBy is how long a command waits for the rehearsal of what it deploys; it goes on without the command.
	answerBy = 45 * time.Second
)

// followRehearsals rehearses what waits for it. A rehearsal that an earlier leader had begun is begun anew.
func (c *Controller) followRehearsals(ctx context.Context) error {
	for {
		view := c.store.View()
		for _, ro := range view.Rollouts() {
			if ro.Phase == rollout.Rehearsing {
				c.errands.run("rehearsal/"+ro.Spec+"/"+ro.Canary, func() {
					c.lament(ctx, "rehearse", ro.Spec, c.rehearse(ctx, ro.Spec, ro.Canary))
				})
			}
		}
		if err := c.waitUntil(ctx, view.Revision(), time.After(rolloutEvery)); err != nil {
			return err
		}
	}
}

// rehearse proves the way back of a canary, or says why it is not proven. Whatever else changes the rollout meanwhile ends it: it holds nothing.
func (c *Controller) rehearse(ctx context.Context, spec, canary string) error {
	stage := &stage{c: c, spec: spec, pin: rand.Text(), rows: map[string]*rollout.Rehearsed{}, open: map[string]string{}, closed: map[string]string{}, failed: map[string]string{}}
	var failures []string
	for number := 1; number <= rollout.Rounds() && len(failures) == 0; number++ {
		began := time.Now()
		ro, err := c.enterRound(ctx, spec, canary, number, stage.pin)
		if err != nil {
			return quietly(err)
		}
		if failures, err = stage.play(ctx, ro, began); err != nil {
			return quietly(err)
		}
	}
	return quietly(c.retrying(spec, func(now store.Rollout) error {
		if !stage.still(now) {
			return errMoved
		}
		next := now
		var event rollout.Event
		var why string
		proxies, more, slowest := stage.results()
		next.Run, event, why = now.Concluded(proxies, more, slowest, failures, time.Now().UTC())
		_, _, err := c.apply(ctx, Actor{Name: now.By}, now, next, event, why, time.Now().UTC())
		var refused *Refused
		if errors.As(err, &refused) { // it was admitted when it was asked for, and is not any more
			next.Run, event, why = now.Concluded(proxies, more, slowest, []string{refused.Why}, time.Now().UTC())
			_, _, err = c.apply(ctx, Actor{Name: now.By}, now, next, event, why, time.Now().UTC())
		}
		if err == nil {
			c.concluded(next, event)
		}
		return err
	}))
}

func (c *Controller) concluded(ro store.Rollout, event rollout.Event) {
	result := "proven"
	if event == rollout.EventUnproven {
		result = "unproven"
	}
	c.metrics.rehearsals.WithLabelValues(result).Inc()
	c.log.Info("rehearsal", zap.String("spec", ro.Spec), zap.String("canary", ro.Canary), zap.String("result", ro.Rehearsal.String()),
		zap.Duration("took", ro.Rehearsal.EndedAt.Sub(ro.Rehearsal.StartedAt)))
}

// quietly drops what only says that the rollout has become something else.
func quietly(err error) error {
	if errors.Is(err, errMoved) {
		return nil
	}
	return err
}

// enterRound puts a round in force.
func (c *Controller) enterRound(ctx context.Context, spec, canary string, number int, pin string) (store.Rollout, error) {
	var out store.Rollout
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		ro, ok := tx.Rollout(spec)
		if !ok || ro.Phase != rollout.Rehearsing || ro.Canary != canary || number > 1 && (ro.RoundInForce() == nil || ro.RoundInForce().Pin != pin) {
			return errMoved
		}
		ro.Run = ro.InRound(number, pin, time.Now().UTC())
		tx.PutRollout(ro)
		out = ro
		return nil
	})
	return out, err
}

// stage is one rehearsal as it goes on.
type stage struct {
	c         *Controller
	spec, pin string

	mu   sync.Mutex
	rows map[string]*rollout.Rehearsed
	// open are the proxies through which synthetic executions can be sent from here, closed those through which they cannot, with the reason.
	open, closed map[string]string
	// failed are the proxies of which they did not show what they were to show, with what they showed last.
	failed map[string]string
	// unnamed proxies at other replicas, of which only the number is told, and how long the slowest of them took.
	unnamed int
	whole   time.Duration
}

func (s *stage) still(ro store.Rollout) bool {
	round := ro.RoundInForce()
	return round != nil && round.Pin == s.pin
}

// play waits until every proxy has done what the round asks, and notes how long each took.
func (s *stage) play(parent context.Context, ro store.Rollout, began time.Time) (failures []string, err error) {
	round := *ro.RoundInForce()
	ctx, cancel := context.WithTimeout(parent, rollout.RoundWithin)
	sounded := make(chan struct{})
	go func() {
		defer close(sounded)
		s.sound(ctx, ro, round, began)
	}()
	defer func() {
		cancel()
		<-sounded
	}()
	sounding := sounded
	for {
		changes := s.c.discovery.Changes()
		if now, ok := s.c.store.View().Rollout(s.spec); !ok || !s.still(now) {
			return nil, errMoved
		}
		now := time.Now()
		if ctx.Err() != nil { // the same end by both clocks
			<-sounded
			sounding, now = nil, round.Since.Add(rollout.RoundWithin)
		}
		sight := s.look(ro, round, began)
		if sounding != nil {
			sight.Late = append(sight.Late, "synthetic executions are under way")
		}
		if over, failures := round.Judge(sight, now); over || parent.Err() != nil {
			s.whole = time.Since(began)
			return failures, parent.Err()
		}
		recheck := time.NewTimer(recheckEvery)
		select {
		case <-changes:
		case <-recheck.C:
		case <-sounding:
			sounding = nil
		case <-ctx.Done():
		}
		recheck.Stop()
	}
}

// look says how far the round has come.
func (s *stage) look(ro store.Rollout, round rollout.Round, began time.Time) rollout.Sight {
	view := s.c.store.View()
	route, _ := view.Route(s.spec)
	effect := s.c.discovery.Rehearsed(s.spec, route.Generation, round.Mark())
	took := time.Since(began)
	sight := rollout.Sight{Wrong: s.c.coldPools(view, ro.Run), Proxies: effect.AckedCount()}
	for _, p := range slices.Concat(effect.Pending, effect.Gone) {
		sight.Late = append(sight.Late, "proxy "+p.Node+": "+p.Reason)
	}
	if effect.MorePending > 0 {
		sight.Late = append(sight.Late, fmt.Sprintf("%d more proxies at other replicas: have not acknowledged it yet", effect.MorePending))
	}
	for _, p := range effect.Refused {
		sight.Wrong = append(sight.Wrong, "proxy "+p.Node+": "+p.Reason)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unnamed = effect.MoreAcked
	for _, p := range effect.Acked {
		s.note(p.Node, round, took, false)
	}
	for node, last := range s.failed {
		sight.Late = append(sight.Late, "proxy "+node+": "+last)
	}
	return sight
}

// note writes down how long a proxy took, if that is not known yet: by what synthetic executions met, or by its acknowledgement. The caller holds mu.
func (s *stage) note(node string, round rollout.Round, took time.Duration, seen bool) {
	row := s.rows[node]
	if row == nil {
		row = &rollout.Rehearsed{Node: node}
		s.rows[node] = row
	}
	switch back := round.Number == rollout.Rounds(); {
	case back && seen:
		row.Seen = took
	case back && row.Acked == 0:
		row.Acked = took
	case round.Weight() > 0 && (seen || row.There == 0):
		row.There = took
	}
}

// results are the proxies' parts.
func (s *stage) results() (proxies []rollout.Rehearsed, more int, slowest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, row := range s.rows {
		row.Note = s.closed[row.Node]
		proxies = append(proxies, *row)
		slowest = max(slowest, row.Back())
	}
	if s.unnamed > 0 {
		slowest = max(slowest, s.whole)
	}
	return proxies, s.unnamed, slowest
}

// coldPools are what is wrong with the pools that the canary's traffic would go to and come back to. The stable version carries all the traffic now, so
// its ready instances are enough for it; if fewer than half of what it has is ready it is about to be too small.
func (c *Controller) coldPools(view *store.View, run rollout.Run) (wrong []string) {
	for _, version := range []string{run.Stable, run.Canary} {
		ready, waiting := c.fleet.Pool(view, run.Spec, version).Ready, 0
		for _, in := range view.InstancesOf(run.Spec, version) {
			if in.Health == routing.Starting {
				waiting++
			}
		}
		switch {
		case ready == 0:
			wrong = append(wrong, fmt.Sprintf("pool %s:%s: has no ready instance", run.Spec, version))
		case version == run.Stable && ready < waiting:
			wrong = append(wrong, fmt.Sprintf("pool %s:%s: only %d of its %d instances are ready to take the traffic back", run.Spec, version, ready, ready+waiting))
		}
	}
	return wrong
}

// sound sends synthetic executions through every proxy that can be reached from here, until they show what the round has them show. In the first round
// an Envoy that has nothing of the spec fetches its routes with them.
func (s *stage) sound(ctx context.Context, ro store.Rollout, round rollout.Round, began time.Time) {
	target := ro.Stable
	if round.Weight() > 0 {
		target = ro.Canary
	}
	want := synthetic.Met{Version: versions.Ref{Spec: s.spec, Version: target}.String(), Round: strconv.Itoa(round.Number)}
	var g errgroup.Group
	g.SetLimit(soundings)
	for _, p := range s.c.discovery.Proxies() {
		s.mu.Lock()
		through := round.Number == 1 || s.open[p.Node] != ""
		s.mu.Unlock()
		if !p.Connected || !through {
			continue
		}
		if p.Listen == "" {
			s.shut(p.Node, "it does not say where it takes requests")
			continue
		}
		g.Go(func() error {
			s.soundOne(ctx, p.Node, s.route(ro, p.Listen), want, round, began)
			return nil
		})
	}
	_ = g.Wait()
}

// shut notes that a proxy takes part by its acknowledgements alone.
func (s *stage) shut(node, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed[node] = "by its word alone: " + why
}

func (s *stage) route(ro store.Rollout, listen string) synthetic.Route {
	host := s.spec + ".agents"
	if record, ok := s.c.store.View().Version(s.spec, ro.Stable); ok && len(record.Manifest.Hosts) > 0 {
		host = record.Manifest.Hosts[0]
	}
	return synthetic.Route{
		Address: listen, Path: envoy.RehearsalPath, Host: host, ScopeHeader: s.c.discovery.ScopeHeader(), Pin: s.pin,
		PinHeader: envoy.HeaderPin, VersionHeader: envoy.HeaderVersion, RoundHeader: envoy.HeaderRehearsal,
	}
}

func (s *stage) soundOne(ctx context.Context, node string, route synthetic.Route, want synthetic.Met, round rollout.Round, began time.Time) {
	row, shut, last := 0, 0, "no synthetic execution came through it"
	for ctx.Err() == nil {
		met, err := synthetic.Send(ctx, route)
		var closed *synthetic.Closed
		switch {
		case ctx.Err() != nil:
		case errors.As(err, &closed):
			if shut++; round.Number == 1 && shut == closedTries {
				s.shut(node, closed.Why)
				return
			}
			row, last = 0, closed.Why
		case err != nil:
			row, last = 0, err.Error()
		case met != want:
			row, last = 0, fmt.Sprintf("synthetic executions come to %s by another route than the newest", met.Version)
		default:
			if row++; row == inARow {
				s.mu.Lock()
				s.open[node] = route.Address
				s.note(node, round, time.Since(began), true)
				s.mu.Unlock()
				return
			}
			continue
		}
		select {
		case <-time.After(soundEvery):
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	s.failed[node] = last
	s.mu.Unlock()
}

// awaitRehearsals waits until it is known whether what was begun gets traffic, and puts the change that gave it in place of the beginning.
func (c *Controller) awaitRehearsals(ctx context.Context, starts map[string]*start, changes []Change) error {
	ctx, cancel := context.WithTimeout(ctx, answerBy)
	defer cancel()
	var errs []error
	var done []string
	for i := range changes {
		s := starts[changes[i].Route.Spec]
		if s == nil || s.begun.Phase != rollout.Rehearsing {
			done = append(done, fmt.Sprintf("%s: %s", changes[i].Route.Spec, routing.Describe(changes[i].Route.Splits)))
			continue
		}
		ro, err := c.rehearsed(ctx, s.begun)
		switch {
		case err != nil:
			return err
		case ro.Phase == rollout.Refused:
			errs = append(errs, unproven(ro))
		case ro.Phase.Ended():
			errs = append(errs, refuse("specctl canary status "+ro.Spec, "%s:%s gets no traffic: its rollout is %s: %s", ro.Spec, ro.Canary, ro.Phase, ro.Why))
		default:
			s.begun = ro
			if len(ro.Marks) > 0 {
				c.began(&changes[i], ro)
			}
			done = append(done, fmt.Sprintf("%s:%s is %s", ro.Spec, ro.Canary, ro.Phase))
		}
	}
	return joined(errs, done)
}

// joined is one Refused for all; it says too what was done all the same.
func joined(errs []error, done []string) error {
	if len(errs) == 0 {
		return nil
	}
	var whys, nexts []string
	for _, err := range errs {
		var r *Refused
		if errors.As(err, &r) {
			whys, nexts = append(whys, r.Why), append(nexts, r.Next)
		}
	}
	for _, d := range done {
		whys = append(whys, "done all the same: "+d)
	}
	return &Refused{Why: strings.Join(whys, "\n"), Next: strings.Join(nexts, "\n  next: ")}
}

// rehearsed waits until the rollout's rehearsal has ended, or ctx has: then it is still under way.
func (c *Controller) rehearsed(ctx context.Context, begun store.Rollout) (store.Rollout, error) {
	for {
		view := c.store.View()
		ro, ok := view.Rollout(begun.Spec)
		if !ok || ro.Canary != begun.Canary {
			return ro, refuse("specctl canary status "+begun.Spec, "%s:%s gets no traffic: another rollout has taken its place", begun.Spec, begun.Canary)
		}
		if ro.Phase != rollout.Rehearsing {
			return ro, nil
		}
		if err := c.wait(ctx, view.Revision()); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				return ro, nil
			}
			return ro, err
		}
	}
}

// began makes the change tell of the canary's first weight.
func (c *Controller) began(change *Change, ro store.Rollout) {
	view := c.store.View()
	route, ok := view.Generation(ro.Spec, ro.Marks[0].Generation)
	if !ok {
		return
	}
	before, _ := view.Generation(ro.Spec, route.Generation-1)
	*change = Change{Route: route, Before: before.Splits, Capacity: c.capacity(route), Warnings: change.Warnings}
}

// unproven says why a deploy was refused, and what to do.
func unproven(ro store.Rollout) error {
	failures := ro.Rehearsal.Failures
	var next []string
	if slices.ContainsFunc(failures, func(f string) bool { return strings.HasPrefix(f, "proxy ") || strings.HasPrefix(f, "no proxy") }) {
		next = append(next, "specctl proxies")
	}
	if slices.ContainsFunc(failures, func(f string) bool { return strings.HasPrefix(f, "pool ") }) {
		next = append(next, "specctl get "+ro.Spec)
	}
	next = append(next, "(or, in an emergency and on record: repeat the command with --no-rehearsal --reason \"…\")")
	return refuse(strings.Join(next, "   "), "%s:%s gets no traffic: its way back is not proven\n  %s", ro.Spec, ro.Canary, strings.Join(failures, "\n  "))
}
