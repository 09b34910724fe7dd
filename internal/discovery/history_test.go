package discovery_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/envoytest"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/routing/envoy"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// step is one thing that happens to a spec, and then to the Envoy that serves it.
type step struct {
	// what happens, and N chooses to which of its versions or instances.
	what string
	n    int
	// accepts is how many responses Envoy takes in afterwards, upset what befalls its stream then.
	accepts int
	upset   string
}

func script() *rapid.Generator[[]step] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			what:    rapid.SampledFrom([]string{"publish", "join", "join", "leave", "leave", "deploy", "deploy", "weights", "target", "shadow", "rollback", "drained"}).Draw(t, "what"),
			n:       rapid.IntRange(0, 59).Draw(t, "n"),
			accepts: rapid.SampledFrom([]int{0, 1, 2, 3, 9}).Draw(t, "accepts"),
			upset:   rapid.SampledFrom([]string{"", "", "", "", "", "refuse", "reconnect", "restart", "replica"}).Draw(t, "upset"),
		}
	}), 8, 25)
}

// life is one spec's records in the store, changed as the control plane changes them.
type life struct {
	t    tb
	s    *store.Store
	spec string

	route     routing.Route
	versions  []versions.Record
	instances []routing.Instance
	drains    map[string]drain.Drain
	// changed since the last moment.
	changed bool
	last    moment
}

// moment is the spec after a step, as the store's view makes it, and the versions that it needs by the rules.
type moment struct {
	spec   envoy.Spec
	needed map[string]bool
}

const (
	mostVersions = 5
	mostPerPool  = 2
)

// poolAddress is where the i-th instance of the n-th version listens.
func poolAddress(n, i int) string { return fmt.Sprintf("10.0.%d.%d:80", n, i) }

// begin publishes a first version, starts an instance of it and deploys it.
func begin(t tb, s *store.Store, spec string) *life {
	l := &life{t: t, s: s, spec: spec, drains: map[string]drain.Drain{}}
	l.publish()
	l.join(0)
	l.give(routing.Split{Version: l.versions[0].Version, BasisPoints: routing.Full})
	return l
}

// live goes through a script and returns the spec at its begin and after each step.
func live(t tb, s *store.Store, spec string, steps []step) []moment {
	l := begin(t, s, spec)
	moments := []moment{l.now()}
	for _, st := range steps {
		switch st.what {
		case "publish":
			l.publish()
		case "join":
			l.join(st.n)
		case "leave":
			l.leave(st.n)
		case "deploy":
			if v, ok := l.ready(st.n); ok {
				l.give(routing.Split{Version: v, BasisPoints: routing.Full})
			}
		case "weights":
			l.share(st.n)
		case "target":
			l.target(st.n)
		case "shadow":
			l.shadow(st.n)
		case "rollback":
			l.rollback()
		case "drained":
			l.drained(st.n)
		}
		moments = append(moments, l.now())
	}
	return moments
}

// now writes the records, if any changed, and reads the spec back as discovery does.
func (l *life) now() moment {
	if !l.changed {
		return l.last
	}
	l.changed = false
	_, err := l.s.Update(l.t.Context(), func(tx *store.Tx) error {
		for _, r := range l.versions {
			tx.PutVersion(r)
		}
		for _, d := range l.drains {
			tx.PutDrain(d)
		}
		kept := map[string]bool{}
		for _, i := range l.instances {
			tx.PutInstance(i)
			kept[i.ID] = true
		}
		for _, i := range tx.Instances(l.spec) {
			if !kept[i.ID] {
				tx.DeleteInstance(i.ID)
			}
		}
		if r, ok := tx.Route(l.spec); !ok || r.Generation != l.route.Generation {
			tx.PutRoute(l.route)
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	m := moment{spec: discovery.FromStore(l.s).Read([]string{l.spec})[l.spec], needed: map[string]bool{}}
	for _, version := range l.route.Carried() {
		m.needed[version] = true
	}
	if l.route.Shadow != nil {
		m.needed[l.route.Shadow.Version] = true
	}
	for _, i := range l.instances {
		m.needed[i.Version] = true
	}
	for v, d := range l.drains {
		m.needed[v] = m.needed[v] || d.Unfinished()
	}
	if exit, _, err := routing.Exit(routing.Newest(l.route.Splits, l.versions), l.route.Splits, l.versions); err == nil {
		m.needed[exit] = true
	}
	l.last = m
	return m
}

func (l *life) publish() {
	if n := len(l.versions); n < mostVersions {
		l.changed = true
		v := fmt.Sprintf("1.%d.0", n)
		l.versions = append(l.versions, versions.Record{
			Spec: l.spec, Version: v, Digest: "sha256:" + v, Standing: versions.Published, Manifest: versions.Manifest{Name: l.spec, Version: v},
		})
	}
}

func (l *life) join(n int) {
	version := n % len(l.versions)
	for i := range mostPerPool {
		id := fmt.Sprintf("%s-%d-%d", l.spec, version, i)
		if !slices.ContainsFunc(l.instances, func(in routing.Instance) bool { return in.ID == id }) {
			l.changed = true
			l.instances = append(l.instances, routing.Instance{
				ID: id, Spec: l.spec, Version: l.versions[version].Version, Address: poolAddress(version, i), Health: routing.Ready,
			})
			return
		}
	}
}

// leave makes an instance leave, or takes it away if it is leaving. The last ready one of a version that new work comes to stays, as it does in
// the control plane.
func (l *life) leave(n int) {
	if len(l.instances) == 0 {
		return
	}
	i := n % len(l.instances)
	in := &l.instances[i]
	switch {
	case in.Health == routing.Leaving:
		l.instances, l.changed = slices.Delete(l.instances, i, i+1), true
	case !l.route.Carries(in.Version) || l.readyOf(in.Version) > 1:
		in.Health, l.changed = routing.Leaving, true
	}
}

func (l *life) readyOf(version string) (n int) {
	for _, in := range l.instances {
		if in.Version == version && in.Health == routing.Ready {
			n++
		}
	}
	return n
}

// ready chooses a version that may be deployed.
func (l *life) ready(n int) (string, bool) {
	var out []string
	for _, r := range l.versions {
		if r.Standing != versions.Quarantined && l.readyOf(r.Version) > 0 {
			out = append(out, r.Version)
		}
	}
	if len(out) == 0 {
		return "", false
	}
	return out[n%len(out)], true
}

// share moves some of the traffic of the version that has most of it to another one.
func (l *life) share(n int) {
	other, ok := l.ready(n)
	first := l.route.Splits[0].Version
	if !ok || other == first {
		return
	}
	w := uint32(1 + n*167%(routing.Full-1))
	l.give(routing.Split{Version: first, BasisPoints: routing.Full - w}, routing.Split{Version: other, BasisPoints: w})
}

// target leads a header to a version, or nowhere if it led there.
func (l *life) target(n int) {
	version, ok := l.ready(n)
	if !ok {
		return
	}
	targets := routing.WithoutTargets(l.route.HeaderTargets, version)
	if len(targets) == len(l.route.HeaderTargets) {
		targets = append(targets, routing.HeaderTarget{Header: testerHeader, Value: version, Version: version})
	}
	l.reroute(l.route.Splits, targets)
}

// shadow copies requests to a version without weight, or to none if they were copied.
func (l *life) shadow(n int) {
	version, ok := l.ready(n)
	if !ok || len(l.route.Splits) != 1 || l.route.Weight(version) > 0 {
		return
	}
	next := &routing.Shadow{Version: version, BasisPoints: 5000, Since: l.route.Generation + 1}
	if l.route.Shadow != nil {
		next = nil
	}
	l.reroute(l.route.Splits, l.route.HeaderTargets)
	l.route.Shadow = next
}

// testerHeader leads to the version that it names, where it is a target.
const testerHeader = "x-tester"

// rollback goes to the way out, if something runs there, and quarantines what it abandons.
func (l *life) rollback() {
	newest := routing.Newest(l.route.Splits, l.versions)
	exit, _, err := routing.Exit(newest, l.route.Splits, l.versions)
	if err != nil || l.readyOf(exit) == 0 {
		return
	}
	var abandoned []string
	for i := range l.versions {
		if v := l.versions[i].Version; v != exit && l.route.Weight(v) > 0 {
			l.versions[i].Standing = versions.Quarantined
			abandoned = append(abandoned, v)
		}
	}
	l.reroute([]routing.Split{{Version: exit, BasisPoints: routing.Full}}, routing.WithoutTargets(l.route.HeaderTargets, abandoned...))
}

func (l *life) give(splits ...routing.Split) { l.reroute(splits, l.route.HeaderTargets) }

// reroute is one more route generation: what gets no new work any more drains, and is good if it once had all the weight and has none now.
func (l *life) reroute(splits []routing.Split, targets []routing.HeaderTarget) {
	before := l.route
	l.changed = true
	l.route = routing.Route{Spec: l.spec, Generation: before.Generation + 1, Splits: splits, HeaderTargets: targets}
	if slices.Equal(splits, before.Splits) {
		l.route.Shadow = before.Shadow
	}
	for i := range l.versions {
		r := &l.versions[i]
		had, has := before.Weight(r.Version), l.route.Weight(r.Version)
		if has > 0 && r.FirstWeight == 0 {
			r.FirstWeight = l.route.Generation
		}
		carries := l.route.Carries(r.Version)
		if carries && r.Standing == versions.Published {
			r.Standing = versions.Candidate
		}
		if d, ok := l.drains[r.Version]; ok && carries {
			d.State = drain.Superseded
			l.drains[r.Version] = d
		}
		r.HeldAll = r.HeldAll || has == routing.Full
		if had > 0 && has == 0 && r.Standing == versions.Candidate && r.HeldAll {
			r.Standing = versions.Good
		}
		if before.Carries(r.Version) && !carries {
			l.drains[r.Version] = drain.Drain{Spec: l.spec, Version: r.Version, Generation: l.route.Generation, State: drain.Draining}
		}
	}
}

func (l *life) drained(n int) {
	var running []string
	for _, v := range slices.Sorted(maps.Keys(l.drains)) {
		if l.drains[v].Unfinished() {
			running = append(running, v)
		}
	}
	if len(running) > 0 {
		d := l.drains[running[n%len(running)]]
		d.State, l.changed = drain.Drained, true
		l.drains[d.Version] = d
	}
}

// play shows an Envoy every moment of a life, and checks each state that it passes through.
func play(rt failer, t tb, moments []moment, steps []step, order discovery.Order) {
	ordered := func(o *discovery.Options) { o.Order = order }
	src := newSource(moments[0].spec)
	m := &model{rt: rt, w: worldOf(t, src, ordered)}
	m.reset()
	m.connect()
	at := 0
	since := map[string]int{} // the moment in which Envoy was last without the cluster
	m.left = func(cluster string) {
		for i := since[cluster]; i <= at; i++ {
			if !moments[i].needed[cluster[len(moments[i].spec.Name)+1:]] {
				return
			}
		}
		rt.Fatalf("cluster %s left Envoy while its version had traffic, instances or executions, or was the way out", cluster)
	}
	settle := func() {
		for m.step(false) {
			m.want(moments[0].spec.Name)
		}
	}
	note := func() {
		for v := range moments[at].needed {
			if c := routing.Cluster(moments[at].spec.Name, v); m.have[envoy.TypeCluster][c] == "" {
				since[c] = at
			}
		}
	}
	settle()
	for i, st := range steps {
		at = i + 1
		note()
		src.put(moments[at].spec)
		for range st.accepts {
			m.step(false)
			m.want(moments[at].spec.Name)
		}
		switch st.upset {
		case "refuse":
			m.step(true)
		case "reconnect":
			m.c.close()
			m.connect()
		case "restart":
			m.c.close()
			m.reset()
			m.connect()
		case "replica":
			m.c.close()
			m.w.cp.stop()
			m.w = worldOf(t, src, ordered)
			m.connect()
		}
	}
	settle()
	last := moments[at].spec
	m.converged(map[string]envoy.Spec{last.Name: last})
}

// Whatever happens to a spec, in whatever order, no Envoy ever passes through a state that could fail a request.
func TestEveryStateThatAnEnvoyPassesThroughIsWhole(t *testing.T) {
	s, checks := openStore(t), 0
	rapid.Check(t, func(rt *rapid.T) {
		steps := script().Draw(rt, "script")
		checks++
		moments := live(rt, s, fmt.Sprintf("spec-%d", checks), steps)
		for _, m := range moments {
			whole(rt, m)
		}
		rapid.SyncTest(rt, func(rt *rapid.T) { play(rt, rt, moments, steps, discovery.MakeBeforeBreak) })
	})
}

// whole checks what the store's view makes of the records: every version that is needed is live.
func whole(t failer, m moment) {
	res, err := envoy.Build(m.spec)
	if err != nil {
		t.Fatal(err)
	}
	for v, needed := range m.needed {
		name := routing.Cluster(m.spec.Name, v)
		if live := slices.ContainsFunc(res.Clusters, func(r *envoy.Resource) bool { return r.Name == name }); live != needed {
			t.Fatalf("version %s is needed: %v, has a cluster: %v", v, needed, live)
		}
	}
}

// violation is the panic of a play that was caught.
type violation string

type catcher struct{}

func (catcher) Fatal(args ...any)            { panic(violation(fmt.Sprint(args...))) }
func (catcher) Fatalf(f string, args ...any) { panic(violation(fmt.Sprintf(f, args...))) }

// caught says how a play went wrong; empty if it did not.
func caught(t *testing.T, moments []moment, steps []step, order discovery.Order) (why string) {
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			if v, ok := recover().(violation); ok {
				why = string(v)
			}
		}()
		play(catcher{}, t, moments, steps, order)
	})
	return why
}

// The test above must see a wrong order; here it does, for each kind of wrong.
func TestAWrongOrderIsCaught(t *testing.T) {
	const scripts = 200
	s := openStore(t)
	for order, name := range map[discovery.Order]string{
		discovery.RemoveFirst: "remove first", discovery.RemoveAtOnce: "remove at once",
		discovery.RouteAtOnce: "route at once", discovery.RouteOnClusters: "route on clusters",
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range scripts {
				steps := script().Example(seed)
				if why := caught(t, live(t, s, fmt.Sprintf("mutant-%d-%d", order, seed), steps), steps, order); why != "" {
					t.Logf("script %d: %s", seed, why)
					return
				}
			}
			t.Errorf("%d scripts passed", scripts)
		})
	}
	t.Run("forget the drains", func(t *testing.T) {
		// 1.0.0 is replaced twice and its only instance leaves, while executions may still run there.
		var steps []step
		for _, st := range []step{
			{what: "publish"}, {what: "join", n: 1}, {what: "deploy", n: 1}, {what: "publish"}, {what: "join", n: 2}, {what: "deploy", n: 2}, {what: "leave"}, {what: "leave"},
		} {
			st.accepts = 9
			steps = append(steps, st)
		}
		moments := live(t, s, "mutant-drains", steps)
		if why := caught(t, moments, steps, discovery.MakeBeforeBreak); why != "" {
			t.Fatal(why)
		}
		for i := range moments {
			spec := &moments[i].spec
			spec.Pools = slices.DeleteFunc(slices.Clone(spec.Pools), func(p envoy.Pool) bool {
				return !spec.Route.Carries(p.Version) && spec.Route.Shadow == nil && len(p.Instances) == 0
			})
		}
		why := caught(t, moments, steps, discovery.MakeBeforeBreak)
		if !strings.Contains(why, "left Envoy while its version") {
			t.Errorf("caught: %q", why)
		}
	})
}

// The same scripts under traffic through a real Envoy: as long as one ready instance exists, no request fails.
func TestNoScriptFailsARequestThroughARealEnvoy(t *testing.T) { runScripts(t, 0, 6) }

// runScripts takes a real Envoy through the scripts of some seeds.
func runScripts(t *testing.T, from, to int) {
	s := openStore(t)
	agents := map[string]string{}
	var all []string
	for n := range mostVersions {
		all = append(all, fmt.Sprintf("1.%d.0", n))
		for i := range mostPerPool {
			agents[poolAddress(n, i)] = newAgent(t, fmt.Sprintf("1.%d.0", n)).Address
		}
	}
	src := newSource()
	cp := serve(t, src, "")
	relay := envoytest.NewRelay(t, cp.Address)
	e := envoytest.Start(t, envoytest.Config{Servers: []string{relay.Address}})
	var sent atomic.Int64
	for seed := from; seed < to; seed++ {
		steps := script().Example(seed)
		moments := live(t, s, fmt.Sprintf("real-%d", seed), steps)
		host := moments[0].spec.Hosts[0]
		for _, m := range moments {
			for _, p := range m.spec.Pools {
				for i := range p.Instances {
					if address, ok := agents[p.Instances[i].Address]; ok { // else it is the same moment as the one before
						p.Instances[i].Address = address
					}
				}
			}
		}
		src.put(moments[0].spec)
		eventually(t, host+" is served", ticking(), func() bool { return ask(t, e, "GET", host, "/", "").status == 200 })
		ctx, stop := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for range 3 {
			clients.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					r, err := try(t.Context(), e, "POST", host, "/", "x", testerHeader, all[n%len(all)])
					if sent.Add(1); err != nil || r.status != 200 {
						t.Errorf("script %d: %v, %d %q", seed, err, r.status, r.body)
						return
					}
				}
			})
		}
		for i, st := range steps {
			next := moments[i+1].spec
			src.put(next)
			switch st.upset {
			case "reconnect":
				relay.Cut()
				relay.Mend(cp.Address)
			case "replica":
				cp.stop()
				cp = serve(t, src, "")
				relay.Cut()
				relay.Mend(cp.Address)
			}
			if st.accepts > 2 { // else the next step comes on top of this one
				cp.effective(t, next.Name, next.Route.Generation, 1)
			}
		}
		last := moments[len(moments)-1]
		cp.effective(t, last.spec.Name, last.spec.Route.Generation, 1)
		stop()
		clients.Wait()
		src.remove(last.spec.Name)
	}
	t.Logf("%d requests through %d scripts", sent.Load(), to-from)
}
