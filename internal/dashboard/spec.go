package dashboard

import (
	"cmp"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// specPage is one spec in full.
type specPage struct {
	specView
	All      []versionView
	MoreAll  string
	History  []generation
	Timeline template.HTML
	Legend   []legend
	Acks     []ackView
	Drained  []drainView
	Records  []recordRow
	Rollback string
	Preview  string
}

// generation is one change of the weights.
type generation struct {
	Number   uint64
	At       moment
	By, Kind string
	// Headers that led to a version then, in words.
	Headers    string
	Weights    []weight
	PostMortem string
}

type weight struct {
	Version, Share string
	Part           float64
	Colour         int
}

type legend struct {
	Version string
	Colour  int
}

// ackView is one proxy's acknowledgement of the generation in force.
type ackView struct {
	Node, After, Refusal string
	Connected            bool
	Generation           uint64
	InSync               bool
}

func (d *dashboard) spec(r *http.Request) (page, error) {
	now, name, ctx := time.Now(), r.PathValue("spec"), r.Context()
	got, err := ask(ctx, d.Reads.GetSpec, &operatorv1.GetSpecRequest{Spec: name})
	if err != nil {
		return page{}, err
	}
	drains, err := ask(ctx, d.Reads.ListDrains, &operatorv1.ListDrainsRequest{Spec: name})
	if err != nil {
		return page{}, err
	}
	proxies, err := ask(ctx, d.Reads.ListProxies, &operatorv1.ListProxiesRequest{})
	if err != nil {
		return page{}, err
	}
	all, err := ask(ctx, d.Reads.ListVersions, &operatorv1.ListVersionsRequest{Spec: name, PageToken: r.URL.Query().Get("after")})
	if err != nil {
		return page{}, err
	}
	v := specPage{specView: d.specOf(ctx, got.GetSpec(), nil, now), MoreAll: all.GetNextPageToken()}
	for _, x := range drains.GetDrains() {
		if over := x.GetEndedAt().IsValid(); over {
			v.Drained = append(v.Drained, drainOf(x, now))
		} else {
			v.Drains = append(v.Drains, drainOf(x, now))
		}
	}
	for _, x := range all.GetVersions() {
		v.All = append(v.All, versionOf(x, 0, now))
	}
	v.history(got.GetHistory(), now)
	v.Acks = acksOf(proxies.GetProxies(), got.GetSpec())
	for _, record := range slices.Backward(sorted(d.Reads.Records(name))) {
		v.Records = append(v.Records, rowOf(record, now))
		if b, ok := record.Rollback(name); ok && b.Generation == v.Generation && b.Effect != nil && v.Effect != nil {
			v.Effect.After = span(b.Effect.At.Sub(b.CommittedAt)) // the record outlives this process
		}
	}
	if v.Exit != "" {
		v.Rollback = "specctl rollback " + name + ` --reason "…"`
		v.Preview = "specctl rollback " + name + " --dry-run"
	}
	alarm := len(problemsOf(v.specView))
	return page{Template: "spec", Title: name, Nav: "overview", Alarm: alarm, Refresh: 2, Content: v}, nil
}

// history is the weights by generation, newest first in the table, oldest first in the picture; a version keeps its colour in both.
func (v *specPage) history(changes []*operatorv1.Change, now time.Time) {
	colour := map[string]int{}
	changes = slices.Clone(changes)
	slices.SortFunc(changes, func(a, b *operatorv1.Change) int { return cmp.Compare(b.GetGeneration(), a.GetGeneration()) })
	for _, c := range slices.Backward(changes) {
		for _, w := range c.GetAfter() {
			if _, known := colour[w.GetVersion()]; !known && w.GetBasisPoints() > 0 {
				colour[w.GetVersion()] = len(colour) % colours
				v.Legend = append(v.Legend, legend{w.GetVersion(), colour[w.GetVersion()]})
			}
		}
	}
	for _, c := range changes {
		g := generation{Number: c.GetGeneration(), At: stamped(c.GetCommittedAt(), now), By: c.GetActor(), Kind: c.GetKind(), PostMortem: c.GetPostmortem()}
		for i, t := range c.GetHeaderTargets() {
			if i > 0 {
				g.Headers += ", "
			}
			g.Headers += fmt.Sprintf("%s: %s to %s", t.GetHeader(), t.GetValue(), t.GetVersion())
		}
		for _, w := range c.GetAfter() {
			if w.GetBasisPoints() > 0 {
				g.Weights = append(g.Weights, weight{w.GetVersion(), points(w.GetBasisPoints()), float64(w.GetBasisPoints()) / 100, colour[w.GetVersion()]})
			}
		}
		v.History = append(v.History, g)
	}
	for i := range v.Versions {
		if c, known := colour[v.Versions[i].Version]; known {
			v.Versions[i].Colour = c
		}
	}
	v.Timeline = columns(v.History)
}

// acksOf says when each proxy that routes the spec acknowledged the generation in force. One that is not here has not asked for it.
func acksOf(proxies []*operatorv1.Proxy, s *operatorv1.Spec) []ackView {
	var out []ackView
	for _, p := range proxies {
		for _, x := range p.GetSpecs() {
			if x.GetSpec() != s.GetName() {
				continue
			}
			a := ackView{Node: p.GetNode(), Connected: p.GetConnected(), Refusal: x.GetRefusal(), Generation: x.GetAckedGeneration(), InSync: x.GetAckedGeneration() == s.GetGeneration()}
			if a.InSync && x.GetAckedAt().IsValid() && s.GetChangedAt().IsValid() {
				a.After = span(max(0, x.GetAckedAt().AsTime().Sub(s.GetChangedAt().AsTime())))
			}
			out = append(out, a)
		}
	}
	slices.SortStableFunc(out, func(a, b ackView) int {
		switch {
		case a.InSync == b.InSync:
			return 0
		case a.InSync:
			return 1
		}
		return -1
	})
	return out
}
