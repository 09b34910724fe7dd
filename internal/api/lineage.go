package api

import (
	"context"
	"slices"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/routing"
)

// shownEvents bounds what is told of one version's traffic.
const shownEvents = 100

// GetLineage tells where a spec's versions came from and what became of them.
func (s *Server) GetLineage(_ context.Context, req *connect.Request[operatorv1.GetLineageRequest]) (*connect.Response[operatorv1.GetLineageResponse], error) {
	view := s.Store.View()
	name := req.Msg.GetSpec()
	if err := exists(view, name); err != nil {
		return nil, err
	}
	events := trafficOf(view.History(name))
	out := &operatorv1.GetLineageResponse{}
	for _, r := range view.Versions(name) {
		e := events[r.Version]
		out.Versions = append(out.Versions, &operatorv1.LineageEntry{
			Version: r.Version, Digest: r.Digest, Parents: r.Manifest.Parents, Fixes: r.Manifest.Fixes, Standing: string(r.Standing), StandingReason: r.StandingReason,
			PublishedAt: stamp(r.PublishedAt), PublishedBy: r.PublishedBy, Events: e[max(0, len(e)-shownEvents):], Postmortem: r.PostMortem,
		})
	}
	return connect.NewResponse(out), nil
}

// trafficOf tells by version at which generations its weight changed.
func trafficOf(history []routing.Route) map[string][]*operatorv1.LineageEvent {
	out := map[string][]*operatorv1.LineageEvent{}
	before := routing.Route{}
	for _, r := range history {
		note := func(version string) {
			had, has := before.Weight(version), r.Weight(version)
			if had == has {
				return
			}
			out[version] = append(out[version], &operatorv1.LineageEvent{
				Generation: r.Generation, At: stamp(r.At), Actor: r.By, Kind: string(r.Kind), Before: had, After: has,
				Abandoned: slices.Contains(r.Abandoned, version), Postmortem: r.PostMortem,
			})
		}
		for _, s := range r.Splits {
			note(s.Version)
		}
		for _, s := range before.Splits {
			if r.Weight(s.Version) == 0 {
				note(s.Version)
			}
		}
		before = r
	}
	return out
}
