package dashboard

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/postmortem"
)

// fleetPage is how many specs the overview shows at once.
const fleetPage = 50

// overview is what the on-call engineer opens.
type overview struct {
	Specs          []specView
	Total, Trouble int
	Connected      int
	Known          int
	Drains         int
	Rollouts       int
	Problems       []problem
	Open           []recordRow
	Overdue        int
	Prefix, More   string
}

// problem is what is wrong with one thing, worst first, and the command that helps most.
type problem struct {
	About, Link string
	What        []string
	Next        string
}

func (d *dashboard) overview(r *http.Request) (page, error) {
	now, query := time.Now(), r.URL.Query()
	prefix := query.Get("prefix")
	fleet, err := ask(r.Context(), d.Reads.GetFleet, &operatorv1.GetFleetRequest{PageSize: fleetPage, PageToken: query.Get("after"), Prefix: prefix})
	if err != nil {
		return page{}, err
	}
	drains, err := ask(r.Context(), d.Reads.ListDrains, &operatorv1.ListDrainsRequest{})
	if err != nil {
		return page{}, err
	}
	proxies, err := ask(r.Context(), d.Reads.ListProxies, &operatorv1.ListProxiesRequest{})
	if err != nil {
		return page{}, err
	}
	v := overview{
		Total: int(fleet.GetSpecsTotal()), Trouble: int(fleet.GetSpecsInTrouble()), Connected: int(fleet.GetProxiesConnected()), Known: int(fleet.GetProxiesKnown()),
		Drains: len(drains.GetDrains()), Prefix: prefix,
	}
	for _, s := range fleet.GetSpecs() {
		one := d.specOf(r.Context(), s, drains.GetDrains(), now)
		v.Problems = append(v.Problems, problemsOf(one)...)
		if one.Rollout != nil {
			v.Rollouts++
		}
		v.Specs = append(v.Specs, one)
	}
	v.Problems = append(v.Problems, proxyProblems(proxies.GetProxies(), now)...)
	for _, record := range slices.Backward(sorted(d.Reads.OpenRecords())) {
		row := rowOf(record, now)
		v.Overdue += row.Overdue
		v.Open = append(v.Open, row)
		v.Problems = append(v.Problems, overdueOf(record, now)...)
	}
	if token := fleet.GetNextPageToken(); token != "" {
		v.More = Prefix + "?" + url.Values{"after": {token}, "prefix": {prefix}}.Encode()
	}
	return page{Template: "overview", Title: "Overview", Nav: "overview", Alarm: len(v.Problems), Refresh: 2, Content: v}, nil
}

// sorted is by when they were opened.
func sorted(records []postmortem.Record) []postmortem.Record {
	records = slices.Clone(records)
	slices.SortStableFunc(records, func(a, b postmortem.Record) int { return a.OpenedAt.Compare(b.OpenedAt) })
	return records
}

// problemsOf is all that is wrong with a spec; none if nothing is.
func problemsOf(s specView) []problem {
	p := problem{About: s.Name, Link: Prefix + "specs/" + url.PathEscape(s.Name), What: slices.Clone(s.Trouble), Next: s.Next}
	if e := s.Effect; e != nil {
		for _, who := range e.Refusals {
			p.What = append(p.What, fmt.Sprintf("generation %d is refused: %s", s.Generation, who))
		}
		if !e.Effective || len(e.Laggards) > 0 {
			p.What = append(p.What, unproven(s))
		}
	}
	if len(p.What) == 0 {
		return nil
	}
	return []problem{p}
}

// shownLaggards bounds how many are named in one line.
const shownLaggards = 3

func unproven(s specView) string {
	what := fmt.Sprintf("generation %d is effective, but not with everybody", s.Generation)
	if !s.Effect.Effective {
		what = fmt.Sprintf("generation %d is committed and not yet proven effective", s.Generation)
	}
	if n := len(s.Effect.Laggards); n > 0 {
		what += ": " + strings.Join(s.Effect.Laggards[:min(n, shownLaggards)], "; ")
		if n > shownLaggards {
			what += fmt.Sprintf("; and %d more", n-shownLaggards)
		}
	}
	return what
}

func proxyProblems(proxies []*operatorv1.Proxy, now time.Time) []problem {
	var out []problem
	for _, p := range proxies {
		one := problem{About: p.GetNode(), Link: Prefix + "proxies", Next: "specctl proxies " + argument(p.GetNode())}
		if p.GetRefusal() != "" {
			one.What = append(one.What, "the proxy refused its configuration: "+p.GetRefusal())
		}
		if !p.GetConnected() {
			one.What = append(one.What, "the proxy is not connected, last seen "+stamped(p.GetLastSeen(), now).Ago+"; what it serves is not known")
		}
		if len(one.What) > 0 {
			out = append(out, one)
		}
	}
	return out
}

// overdueOf is what somebody owes an open record.
func overdueOf(r postmortem.Record, now time.Time) []problem {
	p := problem{About: r.ID, Link: Prefix + "postmortems/" + url.PathEscape(r.ID), Next: "specctl postmortem show " + r.ID}
	if o := r.Owner; o != nil && !o.Due.IsZero() && o.Due.Before(now) {
		p.What = append(p.What, fmt.Sprintf("was to be answered by %s %s", o.Name, at(o.Due, now).Ago))
	}
	for _, a := range r.Actions {
		if a.Done.IsZero() && a.Due.Before(now) {
			p.What = append(p.What, fmt.Sprintf("%s was due %s, from %s: %s", a.ID, at(a.Due, now).Ago, a.Owner, a.What))
		}
	}
	if len(p.What) == 0 {
		return nil
	}
	return []problem{p}
}
