package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/routing"
)

// ProxyEffect is one proxy's word about one spec.
type ProxyEffect struct {
	Node string
	// Generation that it acknowledged last, 0 if none.
	Generation uint64
	// AckedAt is when it did so.
	AckedAt time.Time
	// LastSeen is set on those that are gone.
	LastSeen time.Time
	// Refusal is its own message if it refused.
	Refusal string
	// Reason says in words why it has not acknowledged.
	Reason string
}

// Effect is how far one generation of a spec has come, at all replicas. Proxies that have nothing of the spec are in none of the lists: they
// get the newest route with their first request. Each list is sorted by node.
type Effect struct {
	// Acked have acknowledged the generation or a later one, and refuse nothing of it.
	Acked []ProxyEffect
	// Pending are connected and have not answered yet.
	Pending []ProxyEffect
	// Refused keep an older generation, or the generation as it was before a refused addition, and said why.
	Refused []ProxyEffect
	// Gone are connected to no replica, were seen in the last 24 hours and had the spec: nobody knows what they do. They are unproven.
	Gone []ProxyEffect
	// MoreAcked and MorePending are counts of proxies at other replicas that do not name them all.
	MoreAcked, MorePending int
}

// Proven says that every proxy that may serve the spec has acknowledged.
func (e Effect) Proven() bool { return e.AckedCount() == e.Total() }

// AckedCount is the number of proxies that have acknowledged.
func (e Effect) AckedCount() int { return len(e.Acked) + e.MoreAcked }

// Total is the number of proxies that the effect is about.
func (e Effect) Total() int {
	return e.AckedCount() + len(e.Pending) + e.MorePending + len(e.Refused) + len(e.Gone)
}

// ProxyState is one proxy as an operator sees it.
type ProxyState struct {
	Node string
	// Version is what it says it is, such as "envoy 1.40.0".
	Version string
	// Connected to this replica or to another one; Replica is its name, empty if the control plane is alone.
	Connected bool
	Replica   string
	// Listen is where it takes requests, host:port, as far as that can be told from here; empty: unknown.
	Listen   string
	LastSeen time.Time
	// Specs that it has, sorted by name.
	Specs []SpecState
	// Refusal is what it refused last and keeps refusing, in its own words, or what is wrong with it as a whole; empty if nothing is.
	Refusal string
}

// SpecState is one spec at one proxy.
type SpecState struct {
	Spec string
	// Generation acknowledged, and when. 0 if none was, or if it is not known.
	Generation uint64
	AckedAt    time.Time
	// Refusal is the proxy's own message if it refused something newer.
	Refusal string
}

// neighbours are the other replicas that live: names by id.
type neighbours map[string]string

// wanted is what proxies are to have acknowledged: a generation, and if mark is set that round of its rehearsal.
type wanted struct {
	generation uint64
	mark       string
}

func (w wanted) has(a routing.ProxyAck) bool {
	return a.Proven() >= w.generation && (w.mark == "" || a.Mark == w.mark)
}

// unnamed counts those of a replica that it does not name: who has it, and who has not.
func (w wanted) unnamed(a routing.Acks) (have, lack int) {
	for g, n := range a.More {
		if lack += n; g >= w.generation {
			have += n
		}
	}
	if w.mark != "" {
		have = a.Marked[w.mark]
	}
	return have, lack - have
}

// effect reads the ledger, and what the other replicas told of the spec.
func (l *ledger) effect(spec string, want wanted, now time.Time, others neighbours, told []routing.Acks) Effect {
	var e Effect
	whole, named := map[string]bool{}, map[string]bool{} // replicas that named all their proxies, and whom they named
	for _, a := range told {
		name, lives := others[a.Replica]
		if !lives {
			continue
		}
		for _, p := range a.Proxies {
			named[p.Node] = true
			e.add(p, want, " (at replica "+name+")")
		}
		whole[a.Replica] = len(a.More) == 0
		have, lack := want.unnamed(a)
		e.MoreAcked, e.MorePending = e.MoreAcked+have, e.MorePending+lack
	}
	l.mu.Lock()
	for n := range l.holders[spec] {
		at, lives := others[n.replica]
		switch all, told := whole[n.replica]; {
		case len(n.sessions) > 0:
			if ack, ok := n.ack(spec); ok {
				e.add(ack, want, "")
			}
		case lives && (named[n.name] || told && !all):
		case lives:
			e.Pending = append(e.Pending, ProxyEffect{Node: n.name, Reason: "has not said what it holds (at replica " + at + ")"})
		case now.Sub(n.lastSeen) < remembered:
			e.Gone = append(e.Gone, ProxyEffect{Node: n.name, LastSeen: n.lastSeen,
				Reason: "not connected since " + n.lastSeen.UTC().Format(time.RFC3339)})
		}
	}
	l.mu.Unlock()
	for _, list := range [][]ProxyEffect{e.Acked, e.Pending, e.Refused, e.Gone} {
		slices.SortFunc(list, func(a, b ProxyEffect) int { return cmp.Compare(a.Node, b.Node) })
	}
	return e
}

// waits says that the effect of a generation is not complete, for want of a connected proxy's answer, and that no proxy refuses anything. It
// mostly looks at few of them.
func (l *ledger) waits(spec string, generation uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.refusing) > 0 {
		return false
	}
	for n := range l.holders[spec] {
		if ack, ok := n.ack(spec); ok && ack.Proven() < generation {
			return true
		}
	}
	return false
}

// add puts a connected proxy's word into the list where it belongs.
func (e *Effect) add(a routing.ProxyAck, want wanted, where string) {
	p := ProxyEffect{Node: a.Node, Generation: a.Generation, AckedAt: a.At}
	switch {
	case want.has(a):
		e.Acked = append(e.Acked, p)
	case a.Refusal != "" && (a.RefusedGeneration == 0 || a.RefusedGeneration >= want.generation):
		p.Refusal, p.Reason = a.Refusal, "refused it: "+a.Refusal+where
		e.Refused = append(e.Refused, p)
	case a.At.IsZero():
		p.Reason = "has just connected and not yet said what it holds" + where
		e.Pending = append(e.Pending, p)
	default:
		p.Reason = "has not acknowledged it yet" + where
		e.Pending = append(e.Pending, p)
	}
}

// ack is the word of the node's slowest session about a spec; false if none has the spec. Its time is zero if one of them has not said yet.
// The caller holds mu.
func (n *node) ack(spec string) (slowest routing.ProxyAck, ok bool) {
	for s := range n.sessions {
		r := s.routes[spec]
		if r == nil {
			if s.mayHold(spec) {
				return routing.ProxyAck{Node: n.name}, true
			}
			continue
		}
		refusal := s.refusal(spec)
		this := routing.ProxyAck{Node: n.name, Generation: r.generation, At: r.at, Refusal: refusal.message, RefusedGeneration: refusal.generation, Mark: r.mark}
		switch {
		case !ok, this.Proven() < slowest.Proven():
			slowest = this
		case this.Proven() == slowest.Proven() && this.Mark != slowest.Mark:
			slowest.Mark = "" // two Envoys of one name are not in the same round
		case this.Proven() == slowest.Proven() && (this.Refusal != "" || slowest.Refusal == "" && this.At.After(slowest.At)):
			slowest = this
		}
		ok = true
	}
	return slowest, ok
}

// acks is what the other replicas are to be told of a spec.
func (l *ledger) acks(spec string) routing.Acks {
	l.mu.Lock()
	out := routing.Acks{Spec: spec}
	for n := range l.holders[spec] {
		if a, ok := n.ack(spec); ok {
			out.Proxies = append(out.Proxies, a)
		}
	}
	l.mu.Unlock()
	slices.SortFunc(out.Proxies, func(a, b routing.ProxyAck) int {
		return cmp.Or(cmp.Compare(a.Proven(), b.Proven()), cmp.Compare(b.Refusal, a.Refusal), cmp.Compare(a.Node, b.Node))
	})
	if len(out.Proxies) > routing.MaxAcks {
		out.More = map[uint64]int{}
		for _, a := range out.Proxies[routing.MaxAcks:] {
			out.More[a.Proven()]++
			if a.Mark != "" {
				if out.Marked == nil {
					out.Marked = map[string]int{}
				}
				out.Marked[a.Mark]++
			}
		}
		out.Proxies = slices.Clip(out.Proxies[:routing.MaxAcks])
	}
	return out
}

// proxies lists every node that is connected to a replica or was seen in the last 24 hours.
func (l *ledger) proxies(now time.Time, self string, others neighbours, told []routing.Acks) []ProxyState {
	elsewhere := map[string][]SpecState{}
	for _, a := range told {
		if _, lives := others[a.Replica]; lives {
			for _, p := range a.Proxies {
				elsewhere[p.Node] = append(elsewhere[p.Node], SpecState{Spec: a.Spec, Generation: p.Generation, AckedAt: p.At, Refusal: p.Refusal})
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []ProxyState
	for _, name := range slices.Sorted(maps.Keys(l.nodes)) {
		n := l.nodes[name]
		at, lives := others[n.replica]
		p := ProxyState{Node: name, Version: n.version, Listen: n.listen, LastSeen: n.lastSeen}
		switch {
		case len(n.sessions) > 0:
			p.Connected, p.Replica, p.LastSeen = true, self, now
		case lives:
			p.Connected, p.Replica, p.LastSeen = true, at, now
		case now.Sub(n.lastSeen) >= remembered || n.forgotten != nil:
			continue
		}
		p.Specs, p.Refusal = n.states(elsewhere[name])
		out = append(out, p)
	}
	return out
}

// states is what the node has of every spec, by spec, and what it refuses. The caller holds mu.
func (n *node) states(elsewhere []SpecState) (all []SpecState, refusal string) {
	specs := map[string]SpecState{}
	for spec := range n.specs {
		specs[spec] = SpecState{Spec: spec}
	}
	if len(n.sessions) == 0 {
		for _, s := range elsewhere {
			specs[s.Spec] = s
		}
	}
	for s := range n.sessions {
		if trouble := s.troubles(); trouble != "" {
			refusal = trouble
		}
		for spec := range s.routes {
			// Of two Envoys with one name, the older generation counts.
			if a, ok := n.ack(spec); ok {
				specs[spec] = SpecState{Spec: spec, Generation: a.Generation, AckedAt: a.At, Refusal: a.Refusal}
			}
		}
	}
	for _, spec := range slices.Sorted(maps.Keys(specs)) {
		if s := specs[spec]; s.Refusal != "" && refusal == "" {
			refusal = spec + ": " + s.Refusal
		}
		all = append(all, specs[spec])
	}
	return all, refusal
}

// users names the connected nodes that may still send new work for a cluster to the address, with the reason.
func (l *ledger) users(spec, version, address string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for name, n := range l.nodes {
		for s := range n.sessions {
			asked, late, holds := false, false, false
			for _, t := range routing.Transports {
				if e, known := s.endpoints[routing.ClusterOver(spec, version, t)]; known {
					asked, late, holds = true, late || !e.known, holds || e.acked != nil && e.acked.Takes(address)
				}
			}
			switch {
			case holds:
				out = append(out, name+" still has it as an endpoint")
			case late:
				out = append(out, name+" has not acknowledged its endpoints")
			case !asked && !s.endpointsNamed && (s.routes[spec] != nil || s.mayHold(spec)):
				out = append(out, name+" has just connected and not yet said what it holds")
			}
		}
	}
	slices.Sort(out)
	return out
}

// Effect says how far a spec's route generation has come at the proxies of all replicas.
func (s *Server) Effect(spec string, generation uint64) Effect {
	s.learnProxies()
	others, _ := s.neighbours()
	return s.ledger.effect(spec, wanted{generation: generation}, s.now(), others, s.memory.Acks(spec))
}

// Rehearsed says how far a round of a spec's rehearsal has come at the proxies of all replicas, by its mark.
func (s *Server) Rehearsed(spec string, generation uint64, mark string) Effect {
	s.learnProxies()
	others, _ := s.neighbours()
	return s.ledger.effect(spec, wanted{generation: generation, mark: mark}, s.now(), others, s.memory.Acks(spec))
}

// ScopeHeader is the request header that names a spec's host at the listeners; empty: :authority.
func (s *Server) ScopeHeader() string { return s.listener.ScopeHeader }

// Waits says, at a small part of the price of Effect, that it will only tell of answers that are still to come: a connected proxy has not
// acknowledged the generation, and none refuses anything, at another replica neither.
func (s *Server) Waits(spec string, generation uint64) bool {
	for _, told := range s.memory.Acks(spec) {
		if slices.ContainsFunc(told.Proxies, func(a routing.ProxyAck) bool { return a.Refusal != "" }) {
			return false
		}
	}
	return s.ledger.waits(spec, generation)
}

// Proxies lists the proxies that are connected to any replica or were seen in the last 24 hours, by node.
func (s *Server) Proxies() []ProxyState {
	s.learnProxies()
	others, self := s.neighbours()
	return s.ledger.proxies(s.now(), self, others, s.memory.Acks(""))
}

// Forget takes a proxy out of account that is connected to no replica, since somebody vouches for it serving nobody any more: it is no laggard of any
// change, and no rehearsal waits for it. If it comes back it has its say again. The answer is ErrNoProxy, ErrConnected, or comes when that is on record.
func (s *Server) Forget(ctx context.Context, node string, f routing.Forgotten) error {
	i := slices.IndexFunc(s.Proxies(), func(p ProxyState) bool { return p.Node == node && p.Connected })
	if i >= 0 {
		return ErrConnected
	}
	switch known, connected := s.ledger.forget(node, f); {
	case !known:
		return ErrNoProxy
	case connected:
		return ErrConnected
	}
	for {
		s.learnProxies()
		yes, forgotten, again := s.ledger.written(node)
		switch {
		case yes && forgotten:
			return nil
		case yes:
			return ErrConnected // it came back meanwhile
		}
		select {
		case <-again:
		case <-ctx.Done():
			return fmt.Errorf("it is not on record yet that %s is forgotten: %w", node, context.Cause(ctx))
		}
	}
}

// ErrNoProxy and ErrConnected are why a proxy cannot be forgotten.
var (
	ErrNoProxy   = errors.New("no such proxy was ever seen")
	ErrConnected = errors.New("the proxy is connected")
)

// neighbours are the other replicas that live, and the name of this one.
func (s *Server) neighbours() (others neighbours, name string) {
	self, _ := s.memory.Self()
	others = neighbours{}
	for _, r := range s.memory.Replicas() {
		if r.ID == self {
			name = r.Name
		} else {
			others[r.ID] = r.Name
		}
	}
	return others, name
}

// Changes returns a channel that is closed when the answer of Effect, Proxies or EndpointGone may next change. Get it first, then ask,
// then wait on it.
func (s *Server) Changes() <-chan struct{} { return s.ledger.changes() }

// EndpointGone waits until no connected proxy sends new work for the version to the address any more: each has acknowledged endpoints
// that do not have it, or have it as draining. The store must show it so already. An error names the proxies that were waited for in vain.
func (s *Server) EndpointGone(ctx context.Context, spec, version, address string) error {
	target := s.sourceRevision()
	for {
		revision, published := s.catalog.published()
		if revision >= target {
			break
		}
		select {
		case <-published:
		case <-ctx.Done():
			return fmt.Errorf("endpoint %s of %s:%s: the change has not been published to the proxies yet: %w", address, spec, version, context.Cause(ctx))
		}
	}
	for {
		changes := s.ledger.changes()
		left := s.ledger.users(spec, version, address)
		if len(left) == 0 {
			return nil
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return fmt.Errorf("endpoint %s of %s:%s is still in use: %s: %w", address, spec, version, strings.Join(left, "; "), context.Cause(ctx))
		}
	}
}
