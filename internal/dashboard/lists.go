package dashboard

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// proxyList is every proxy that is known, trouble first, and the control plane's processes.
type proxyList struct {
	Proxies  []proxyView
	Replicas []replicaView
}

type proxyView struct {
	Node, Version, Replica, Refusal string
	Connected                       bool
	Seen                            moment
	Specs                           []proxySpecView
	// Fine is how many of its specs are in sync and not listed.
	Fine int
}

// proxySpecView is one spec that a proxy is behind with, or refused.
type proxySpecView struct {
	Spec, Refusal, Has string
}

type replicaView struct {
	Name   string
	Since  moment
	Leader bool
	Self   bool
}

func (d *dashboard) proxies(r *http.Request) (page, error) {
	now := time.Now()
	list, err := ask(r.Context(), d.Reads.ListProxies, &operatorv1.ListProxiesRequest{})
	if err != nil {
		return page{}, err
	}
	v, alarm := proxyList{}, 0
	for _, p := range list.GetProxies() {
		one := d.proxyOf(p, now)
		if !one.Connected || one.Refusal != "" || len(one.Specs) > 0 {
			alarm++
		}
		v.Proxies = append(v.Proxies, one)
	}
	slices.SortStableFunc(v.Proxies, func(a, b proxyView) int { return cmp.Compare(b.badness(), a.badness()) })
	self := d.Reads.Standpoint().Replica
	for _, x := range list.GetReplicas() {
		v.Replicas = append(v.Replicas, replicaView{Name: x.GetName(), Since: stamped(x.GetSince(), now), Leader: x.GetLeader(), Self: x.GetName() == self})
	}
	return page{Template: "proxies", Title: "Proxies", Nav: "proxies", Alarm: alarm, Refresh: 3, Content: v}, nil
}

func (p proxyView) badness() int {
	n := len(p.Specs)
	if p.Refusal != "" {
		n++
	}
	if !p.Connected {
		n++
	}
	return n
}

// proxyOf lists what a proxy is behind with, by the generations in force now.
func (d *dashboard) proxyOf(p *operatorv1.Proxy, now time.Time) proxyView {
	v := proxyView{Node: p.GetNode(), Version: p.GetVersion(), Replica: p.GetReplica(), Refusal: p.GetRefusal(), Connected: p.GetConnected(), Seen: stamped(p.GetLastSeen(), now)}
	for _, s := range p.GetSpecs() {
		one := proxySpecView{Spec: s.GetSpec(), Refusal: s.GetRefusal(), Has: "it has not said which generation it has"}
		reach, err := d.Reads.Reach(s.GetSpec(), 0)
		if err != nil {
			continue // a spec that has no route any more is behind nothing
		}
		if s.GetAckedGeneration() > 0 {
			one.Has = "it has generation " + strconv.FormatUint(s.GetAckedGeneration(), 10) + " of " + strconv.FormatUint(reach.GetGeneration(), 10)
		}
		if one.Refusal == "" && s.GetAckedGeneration() >= reach.GetGeneration() {
			v.Fine++
			continue
		}
		v.Specs = append(v.Specs, one)
	}
	return v
}

// statsView is what specctl stats says.
type statsView struct {
	All   statsRow
	Specs []statsRow
	Spec  string
}

type statsRow struct {
	Spec                                  string
	Deploys, Failed, Rollbacks, Open      uint32
	Overrides, Canary, Production, Alarms uint32
	FailedShare                           string
	Detect, Restore, Close                string
	Causes                                []cause
	Warnings                              []string
}

type cause struct {
	Name  string
	Count uint32
}

func (d *dashboard) stats(r *http.Request) (page, error) {
	spec := r.URL.Query().Get("spec")
	got, err := ask(r.Context(), d.Reads.GetStats, &operatorv1.GetStatsRequest{Spec: spec})
	if err != nil {
		return page{}, err
	}
	v := statsView{All: statsOf(got.GetOverall()), Spec: spec}
	for _, s := range got.GetSpecs() {
		v.Specs = append(v.Specs, statsOf(s))
	}
	return page{Template: "stats", Title: "Stats", Nav: "stats", Refresh: 30, Content: v}, nil
}

func statsOf(s *operatorv1.Stats) statsRow {
	row := statsRow{
		Spec: s.GetSpec(), Deploys: s.GetDeploys(), Failed: s.GetFailedDeploys(), Rollbacks: s.GetRollbacks(), Open: s.GetOpen(), Overrides: s.GetOverrides(),
		Canary: s.GetCanaryCatches(), Production: s.GetProductionCatches(), Alarms: s.GetFalseAlarms(), Warnings: s.GetWarnings(),
		Detect: median(s.GetTimeToDetect()), Restore: median(s.GetTimeToRestore()), Close: median(s.GetTimeToClose()),
	}
	if row.Deploys > 0 {
		row.FailedShare = share(float64(row.Failed) / float64(row.Deploys))
	}
	for name, n := range s.GetCauses() {
		row.Causes = append(row.Causes, cause{name, n})
	}
	slices.SortFunc(row.Causes, func(a, b cause) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name)) })
	return row
}

func median(d *durationpb.Duration) string { return cmp.Or(spanOf(d), "none yet") }
