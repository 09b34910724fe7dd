package discovery

import (
	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// feed is one resource type on one stream. The stream's goroutine owns it.
type feed struct {
	typeURL string
	// seen: the client has asked for the type.
	seen bool
	// wildcard: it wants all that is meant for it. names: what it asked for by name.
	wildcard bool
	names    map[string]struct{}
	// held is what the client acknowledged, or said it had when the stream began. Not kept if forgetful.
	held map[string]holding
	// refused are the versions that the client refused, by name.
	refused map[string]string
	// suspects were in a push that was refused as a whole: they are sent one at a time, to find the one at fault.
	suspects map[string]string
	// dirty are the names to look at: they changed, or wait for something else to be acknowledged first.
	dirty map[string]struct{}
	// asked are the names that the client waits to hear of, even if they do not exist.
	asked map[string]struct{}
	// owed: the client waits for its first answer, even if that is empty.
	owed bool
	// flight is the push that is not acknowledged yet.
	flight *push
	// forgetful: every client has every resource, and there are too many of them and of clients to keep a list for each.
	forgetful bool
	// whole: the first answer must not be split, since Envoy begins to serve with it.
	whole bool
}

// holding is one resource that the client has.
type holding struct {
	version string
	// resource is nil if the version is none that this replica knows.
	resource *envoy.Resource
	// seq is the publication as of which it was sent.
	seq uint64
}

// push is one response.
type push struct {
	nonce    string
	seq      uint64
	upserts  []*envoy.Resource
	removals []string
}

func newFeed(typeURL string) *feed {
	return &feed{
		typeURL:   typeURL,
		names:     map[string]struct{}{},
		held:      map[string]holding{},
		refused:   map[string]string{},
		suspects:  map[string]string{},
		dirty:     map[string]struct{}{},
		asked:     map[string]struct{}{},
		forgetful: typeURL == envoy.TypeScope,
		whole:     typeURL == envoy.TypeScope,
	}
}

// mayBeWildcard: a first request without names means all of these, and nothing of the others.
func (f *feed) mayBeWildcard() bool {
	switch f.typeURL {
	case envoy.TypeListener, envoy.TypeCluster, envoy.TypeScope:
		return true
	}
	return false
}

// wants says whether the client subscribed to the name.
func (f *feed) wants(name string) bool {
	if f.wildcard {
		return true
	}
	_, ok := f.names[name]
	return ok
}

func (f *feed) mark(name string) { f.dirty[name] = struct{}{} }

// settled says that nothing of this type is on its way or waits to be sent.
func (f *feed) settled() bool { return !f.seen || f.flight == nil && len(f.dirty) == 0 }

// acknowledge moves the push in flight to what the client holds.
func (f *feed) acknowledge() *push {
	p := f.flight
	f.flight = nil
	for _, r := range p.upserts {
		delete(f.refused, r.Name)
		delete(f.suspects, r.Name)
		if !f.forgetful && f.wants(r.Name) {
			f.held[r.Name] = holding{version: r.Version, resource: r, seq: p.seq}
		}
	}
	for _, name := range p.removals {
		delete(f.held, name)
		delete(f.refused, name)
	}
	return p
}

// refuse notes that the client kept what it had. Of several resources any may be at fault, so each will be tried alone.
func (f *feed) refuse() *push {
	p := f.flight
	f.flight = nil
	if len(p.upserts)+len(p.removals) > 1 {
		for _, r := range p.upserts {
			f.suspects[r.Name] = r.Version
			f.mark(r.Name)
		}
		for _, name := range p.removals {
			f.suspects[name] = ""
			f.mark(name)
		}
		return p
	}
	for _, r := range p.upserts {
		f.refused[r.Name] = r.Version
		delete(f.suspects, r.Name)
	}
	for _, name := range p.removals {
		delete(f.suspects, name) // nothing is gained by removing it again and again
	}
	return p
}

// refuses says that the client refused this very version.
func (f *feed) refuses(r *envoy.Resource) bool {
	version, ok := f.refused[r.Name]
	return ok && version == r.Version
}

// forgetUnwanted ends a first request: what the client has and did not subscribe to is none of our business.
func (f *feed) forgetUnwanted() {
	for name := range f.held {
		if !f.wants(name) {
			f.drop(name)
		}
	}
}

// drop forgets a name that the client unsubscribed from.
func (f *feed) drop(name string) {
	delete(f.names, name)
	delete(f.held, name)
	delete(f.refused, name)
	delete(f.suspects, name)
	delete(f.dirty, name)
	delete(f.asked, name)
}
