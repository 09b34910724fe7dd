package fleet

import (
	"slices"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/drain"
)

// Routed returns what each known instance of a version has counted by route generation, by its id.
func (f *Fleet) Routed(spec, version string) map[string][]drain.Routed {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string][]drain.Routed{}
	for id, m := range f.membersOf(spec, version) {
		out[id] = routedOf(m.totals)
	}
	return out
}

func segmentsOf(t *sidecarv1.Totals) []drain.Segment {
	var out []drain.Segment
	for _, s := range t.GetSegments() {
		out = append(out, drain.Segment{Attribute: s.GetAttribute(), Value: s.GetValue(), Started: s.GetStarted(), Failed: s.GetFailed(), Unknown: s.GetUnknown()})
	}
	return out
}

// declared leaves out of a sidecar's counts what its version's manifest does not declare: they are kept for ever and must be few.
func declared(all []drain.Attribute, counted []*sidecarv1.Segment) (kept []*sidecarv1.Segment) {
	for _, s := range counted {
		known := slices.ContainsFunc(all, func(a drain.Attribute) bool {
			return a.Name == s.GetAttribute() && slices.Contains(a.All(), s.GetValue())
		})
		again := slices.ContainsFunc(kept, func(k *sidecarv1.Segment) bool {
			return k.GetAttribute() == s.GetAttribute() && k.GetValue() == s.GetValue()
		})
		if known && !again {
			kept = append(kept, s)
		}
	}
	return kept
}

func routedOf(t *sidecarv1.Totals) []drain.Routed {
	out := make([]drain.Routed, 0, len(t.GetRouted()))
	for _, r := range t.GetRouted() {
		out = append(out, drain.Routed{
			Generation: r.GetGeneration(), Started: r.GetStarted(), Succeeded: r.GetSucceeded(), Failed: r.GetFailed(),
			Unknown: r.GetUnknown(), Plain: min(r.GetPlain(), r.GetUnknown()), Cut: r.GetCut(), Keyed: min(r.GetKeyed(), r.GetStarted()), Slow: r.GetSlow(),
		})
	}
	return out
}
