package api

import (
	"slices"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// shownOthers is how many versions are shown with a spec that neither get requests nor run: the newest. ListVersions has all.
const shownOthers = 20

// shownVersions are the versions that a spec is shown with, in semantic version order; more says that there are others.
func (s *Server) shownVersions(view *store.View, name string, route routing.Route, exit string) (shown []versions.Record, more bool) {
	live := append(route.Carried(), s.Fleet.Seen(view, name)...)
	if route.Shadow != nil {
		live = append(live, route.Shadow.Version)
	}
	for _, d := range view.UnfinishedDrains(name) {
		live = append(live, d.Version)
	}
	if exit != "" {
		live = append(live, exit)
	}
	slices.Sort(live)
	live = slices.Compact(live)
	for _, version := range live {
		if r, ok := view.Version(name, version); ok {
			shown = append(shown, r)
		}
	}
	others := 0
	newest, err := view.SomeVersions(store.VersionQuery{Spec: name, Newest: true, Limit: len(live) + shownOthers + 1})
	if err == nil { // only a filter by numbers can be wrong
		for _, r := range newest {
			if slices.Contains(live, r.Version) {
				continue
			}
			if others++; others > shownOthers {
				more = true
				break
			}
			shown = append(shown, r)
		}
	}
	slices.SortFunc(shown, func(a, b versions.Record) int { return versions.Compare(a.Version, b.Version) })
	return shown, more
}

// versionOf is a version with what runs of it.
func (s *Server) versionOf(view *store.View, route routing.Route, r versions.Record) *operatorv1.Version {
	return &operatorv1.Version{
		Spec: r.Spec, Version: r.Version, Digest: r.Digest, Standing: string(r.Standing), StandingReason: r.StandingReason, PublishedAt: stamp(r.PublishedAt),
		PublishedBy: r.PublishedBy, Weight: route.Weight(r.Version), Pool: poolOf(s.Fleet.Pool(view, r.Spec, r.Version), fenced(view, r.Spec, r.Version)), Postmortem: r.PostMortem,
	}
}
