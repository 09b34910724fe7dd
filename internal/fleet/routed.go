package fleet

import (
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
