package discovery

import (
	"context"
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

// Effect is how far one generation of a spec has come. Proxies that have nothing of the spec are in none of the lists: they get the
// newest route with their first request. Each list is sorted by node.
type Effect struct {
	// Acked have acknowledged the generation or a later one.
	Acked []ProxyEffect
	// Pending are connected and have not answered yet.
	Pending []ProxyEffect
	// Refused keep an older generation and said why.
	Refused []ProxyEffect
	// Gone are not connected here, were seen in the last 24 hours and had the spec: nobody knows what they do. They are unproven.
	Gone []ProxyEffect
}

// Proven says that every proxy that may serve the spec has acknowledged.
func (e Effect) Proven() bool { return len(e.Pending)+len(e.Refused)+len(e.Gone) == 0 }

// Total is the number of proxies that the effect is about.
func (e Effect) Total() int { return len(e.Acked) + len(e.Pending) + len(e.Refused) + len(e.Gone) }

// ProxyState is one proxy as an operator sees it.
type ProxyState struct {
	Node string
	// Version is what it says it is, such as "envoy 1.40.0".
	Version   string
	Connected bool
	LastSeen  time.Time
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

func compareNames(a, b string) int { return strings.Compare(a, b) }

// effect reads the ledger.
func (l *ledger) effect(spec string, generation uint64, now time.Time) Effect {
	l.mu.Lock()
	defer l.mu.Unlock()
	var e Effect
	for _, name := range slices.Sorted(maps.Keys(l.nodes)) {
		n := l.nodes[name]
		if len(n.sessions) == 0 {
			if _, had := n.specs[spec]; had && now.Sub(n.lastSeen) < remembered {
				e.Gone = append(e.Gone, ProxyEffect{Node: name, LastSeen: n.lastSeen,
					Reason: "not connected to this server since " + n.lastSeen.UTC().Format(time.RFC3339)})
			}
			continue
		}
		n.judge(&e, spec, generation)
	}
	return e
}

// judge puts a connected node into the list of its slowest session.
func (n *node) judge(e *Effect, spec string, generation uint64) {
	var acked, pending, refused *ProxyEffect
	for s := range n.sessions {
		r := s.routes[spec]
		switch {
		case r == nil && s.mayHold(spec):
			pending = &ProxyEffect{Node: n.name, Reason: "has just connected and not yet said what it holds"}
		case r == nil:
		case r.generation >= generation:
			if acked == nil || r.at.After(acked.AckedAt) {
				acked = &ProxyEffect{Node: n.name, Generation: r.generation, AckedAt: r.at}
			}
		case r.refusal != "" && (r.refusedGeneration == 0 || r.refusedGeneration >= generation):
			refused = &ProxyEffect{Node: n.name, Generation: r.generation, AckedAt: r.at, Refusal: r.refusal, Reason: "refused it: " + r.refusal}
		default:
			pending = &ProxyEffect{Node: n.name, Generation: r.generation, AckedAt: r.at, Reason: "has not answered yet"}
		}
	}
	switch {
	case refused != nil:
		e.Refused = append(e.Refused, *refused)
	case pending != nil:
		e.Pending = append(e.Pending, *pending)
	case acked != nil:
		e.Acked = append(e.Acked, *acked)
	}
}

// proxies lists every node that is connected or was seen in the last 24 hours.
func (l *ledger) proxies(now time.Time) []ProxyState {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []ProxyState
	for _, name := range slices.Sorted(maps.Keys(l.nodes)) {
		n := l.nodes[name]
		p := ProxyState{Node: name, Version: n.version, Connected: len(n.sessions) > 0, LastSeen: n.lastSeen}
		if p.Connected {
			p.LastSeen = now
		} else if now.Sub(n.lastSeen) >= remembered {
			continue
		}
		specs := map[string]SpecState{}
		for spec := range n.specs {
			specs[spec] = SpecState{Spec: spec}
		}
		for s := range n.sessions {
			if s.trouble != "" {
				p.Refusal = s.trouble
			}
			for _, spec := range slices.Sorted(maps.Keys(s.routes)) {
				r := s.routes[spec]
				if r.refusal != "" && p.Refusal == "" {
					p.Refusal = spec + ": " + r.refusal
				}
				// Of two Envoys with one name, the older generation counts.
				if have := specs[spec]; have.Generation == 0 || r.generation < have.Generation {
					specs[spec] = SpecState{Spec: spec, Generation: r.generation, AckedAt: r.at, Refusal: r.refusal}
				}
			}
		}
		for _, spec := range slices.Sorted(maps.Keys(specs)) {
			p.Specs = append(p.Specs, specs[spec])
		}
		out = append(out, p)
	}
	return out
}

// holders names the connected nodes that may still send new work for a cluster to the address, with the reason.
func (l *ledger) holders(spec, version, address string) []string {
	cluster := routing.Cluster(spec, version)
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for name, n := range l.nodes {
		for s := range n.sessions {
			e, asked := s.endpoints[cluster]
			switch {
			case asked && !e.known:
				out = append(out, name+" has not acknowledged its endpoints")
			case asked && e.acked != nil && e.acked.Takes(address):
				out = append(out, name+" still has it as an endpoint")
			case !asked && !s.endpointsNamed && (s.routes[spec] != nil || s.mayHold(spec)):
				out = append(out, name+" has just connected and not yet said what it holds")
			}
		}
	}
	slices.Sort(out)
	return out
}

// Effect says how far a spec's route generation has come, as this server knows it.
func (s *Server) Effect(spec string, generation uint64) Effect {
	s.learnProxies()
	return s.ledger.effect(spec, generation, s.now())
}

// Proxies lists the proxies that are connected here or were seen anywhere in the last 24 hours, by node.
func (s *Server) Proxies() []ProxyState {
	s.learnProxies()
	return s.ledger.proxies(s.now())
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
		left := s.ledger.holders(spec, version, address)
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
