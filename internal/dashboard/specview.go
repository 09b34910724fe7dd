package dashboard

import (
	"context"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// specView is one spec as the overview and its own page show it.
type specView struct {
	Name       string
	Trouble    []string
	Next       string
	Exit, Why  string
	Changed    moment
	By, Last   string
	Generation uint64
	Frozen     *frozen
	Versions   []versionView
	// Quiet is how many versions neither hold weight nor run; More says that there are others still.
	Quiet   int
	More    bool
	Traffic bool
	Effect  *effectView
	Rollout *rolloutView
	Drains  []drainView
	Hosts   []string
	Headers []headerView
	Shadow  *shadowView
}

// shadowView is who gets copies of requests, and how they ended beside the requests.
type shadowView struct {
	Version, Share, By, Why                                 string
	Until                                                   moment
	BothSucceeded, RequestFailed, CopyFailed, Both, Unknown uint64
}

// headerView is a header that leads to a version.
type headerView struct {
	Header, Value, Version, By, Why string
	Until                           moment
}

type frozen struct {
	Since, Until moment
	PostMortem   string
}

// versionView is one version, its set weight beside what it really gets.
type versionView struct {
	Version, Digest, Short string
	// Set and Got are shares of the traffic: of 100, for the bar, and in words. Got is empty where nothing was counted.
	Set, Got         float64
	SetText, GotText string
	Success, Of      string
	Failing          bool
	Rate, Ready      string
	Cold             bool
	InFlight         uint64
	Standing, Why    string
	PostMortem       string
	Published        moment
	By               string
	Live             bool
	Colour           int
}

// effectView says how far the newest generation has come.
type effectView struct {
	Effective          bool
	By                 string
	After              string
	Proxies, Fences    string
	Laggards, Refusals []string
}

// ask calls one read of the API.
func ask[Req, Res any](ctx context.Context, read func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req) (*Res, error) {
	res, err := read(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// specOf makes the view of one spec; drains are those that go on anywhere.
func (d *dashboard) specOf(ctx context.Context, s *operatorv1.Spec, drains []*operatorv1.Drain, now time.Time) specView {
	v := specView{
		Name: s.GetName(), Trouble: s.GetTrouble(), Next: s.GetNext(), Exit: s.GetExit(), Why: s.GetExitReason(), Changed: stamped(s.GetChangedAt(), now),
		By: s.GetChangedBy(), Last: s.GetLastChange(), Generation: s.GetGeneration(), More: s.GetMoreVersions(), Hosts: s.GetHosts(),
	}
	if f := s.GetFreeze(); f != nil {
		v.Frozen = &frozen{Since: stamped(f.GetSince(), now), Until: stamped(f.GetUntil(), now), PostMortem: f.GetPostmortem()}
	}
	for _, t := range s.GetHeaderTargets() {
		v.Headers = append(v.Headers, headerView{t.GetHeader(), t.GetValue(), t.GetVersion(), t.GetActor(), t.GetReason(), stamped(t.GetUntil(), now)})
	}
	if x := s.GetShadow(); x != nil {
		v.Shadow = &shadowView{Version: x.GetVersion(), Share: points(x.GetBasisPoints()), By: x.GetActor(), Why: x.GetReason(), Until: stamped(x.GetUntil(), now)}
		if got, err := ask(ctx, d.Reads.GetShadow, &operatorv1.GetShadowRequest{Spec: s.GetName()}); err == nil {
			v.Shadow.BothSucceeded, v.Shadow.RequestFailed, v.Shadow.CopyFailed = got.GetBothSucceeded(), got.GetRequestFailed(), got.GetCopyFailed()
			v.Shadow.Both, v.Shadow.Unknown = got.GetBothFailed(), got.GetUnknown()
		}
	}
	total := 0.0
	for _, x := range s.GetVersions() {
		total += x.GetPool().GetRate()
	}
	v.Traffic = total > 0
	for i, x := range slices.Backward(s.GetVersions()) { // newest first
		row := versionOf(x, total, now)
		row.Colour = i % colours
		if !row.Live {
			v.Quiet++
		}
		v.Versions = append(v.Versions, row)
	}
	if s.GetGeneration() > 0 {
		v.Effect = d.effectOf(s.GetName(), s.GetGeneration())
	}
	if got, err := ask(ctx, d.Reads.GetRollout, &operatorv1.GetRolloutRequest{Spec: s.GetName()}); err == nil && !over(got.GetRollout()) {
		v.Rollout = rolloutOf(got.GetRollout(), now)
	}
	for _, x := range drains {
		if x.GetSpec() == s.GetName() {
			v.Drains = append(v.Drains, drainOf(x, now))
		}
	}
	return v
}

// versionOf is one row; total is the spec's new executions a second.
func versionOf(x *operatorv1.Version, total float64, now time.Time) versionView {
	pool := x.GetPool()
	v := versionView{
		Version: x.GetVersion(), Digest: x.GetDigest(), Short: shortDigest(x.GetDigest()), Set: float64(x.GetWeight()) / 100, SetText: points(x.GetWeight()),
		Ready: fmt.Sprintf("%d of %d", pool.GetReady(), pool.GetInstances()), Cold: x.GetWeight() > 0 && pool.GetReady() == 0, InFlight: pool.GetInFlight(),
		Standing: x.GetStanding(), Why: x.GetStandingReason(), PostMortem: x.GetPostmortem(), Published: stamped(x.GetPublishedAt(), now), By: x.GetPublishedBy(),
		Live: x.GetWeight() > 0 || pool.GetInstances() > 0 || pool.GetInFlight() > 0,
	}
	if total > 0 {
		v.Got = 100 * pool.GetRate() / total
		v.GotText, v.Rate = share(pool.GetRate()/total), fmt.Sprintf("%.1f/s", pool.GetRate())
	}
	if n := pool.GetRecentSucceeded() + pool.GetRecentFailed(); n > 0 {
		v.Success, v.Of = share(float64(pool.GetRecentSucceeded())/float64(n)), fmt.Sprintf("of %d", n)
	}
	if n := pool.GetSilent(); n > 0 {
		v.Ready += fmt.Sprintf(", %d silent", n)
	}
	if pool.GetFenced() {
		v.Ready += ", fenced"
	}
	return v
}

// effectOf is nil if nothing can be said.
func (d *dashboard) effectOf(spec string, generation uint64) *effectView {
	e, err := d.Reads.Reach(spec, generation)
	if err != nil {
		return nil
	}
	v := &effectView{Effective: e.GetEffective(), By: e.GetBy(), Laggards: e.GetLaggards(), Refusals: e.GetRefusals()}
	v.Proxies = fmt.Sprintf("%d of %s", e.GetProxiesAcked(), count(int(e.GetProxiesTotal()), "proxy", "proxies"))
	if e.GetFencesTotal() > 0 {
		v.Fences = fmt.Sprintf("%d of %s", e.GetFencesAcked(), count(int(e.GetFencesTotal()), "instance", "instances"))
	}
	if e.GetEffectiveAt().IsValid() && e.GetCommittedAt().IsValid() {
		v.After = span(e.GetEffectiveAt().AsTime().Sub(e.GetCommittedAt().AsTime()))
	}
	return v
}

// drainView is how far one drain has come.
type drainView struct {
	Version, Target, Kind, State, Instance string
	Ordered                                moment
	Running                                uint64
	Completed, HandedOver, Cancelled, Held uint64
	Arrived, Lost                          uint64
	// Parts are the same counts as parts of 100, for the bar.
	Parts []part
	Ends  string
	// Final is where hand-overs go by now, if the target has been abandoned since.
	Final    string
	Oldest   string
	Laggards []string
	Next     string
}

type part struct {
	Kind     string
	At, Size float64
}

func drainOf(x *operatorv1.Drain, now time.Time) drainView {
	v := drainView{
		Version: x.GetVersion(), Target: x.GetTarget(), Kind: x.GetKind(), State: x.GetState(), Instance: x.GetInstance(), Ordered: stamped(x.GetOrderedAt(), now),
		Running: x.GetInFlight(), Completed: x.GetCompleted(), HandedOver: x.GetHandedOver(), Cancelled: x.GetCancelled(), Held: x.GetHeld(),
		Arrived: x.GetArrived(), Lost: x.GetLost(), Laggards: x.GetLaggards(), Final: x.GetFinalTarget(),
	}
	if x.GetKind() == "promote" {
		v.Running = x.GetSettling()
	}
	switch {
	case x.GetEta() != nil:
		v.Ends = "in about " + spanOf(x.GetEta())
	case x.GetEtaUnknown() != "":
		v.Ends = "not known: " + x.GetEtaUnknown()
	}
	if o := x.GetOldest(); o != nil {
		v.Oldest = o.GetMethod() + " " + o.GetPath() + ", began " + stamped(o.GetStartedAt(), now).Ago
	}
	if x.GetState() == "held" {
		v.Next = "specctl executions " + x.GetSpec() + " --on " + x.GetVersion()
	}
	all := []part{
		{Kind: "completed", Size: float64(v.Completed)}, {Kind: "handed", Size: float64(v.HandedOver)}, {Kind: "cancelled", Size: float64(v.Cancelled)},
		{Kind: "held", Size: float64(v.Held)}, {Kind: "running", Size: float64(v.Running)},
	}
	total := 0.0
	for _, p := range all {
		total += p.Size
	}
	for _, p := range all {
		if p.Size == 0 {
			continue
		}
		p.Size *= 100 / total
		for _, before := range v.Parts {
			p.At += before.Size
		}
		v.Parts = append(v.Parts, p)
	}
	return v
}
