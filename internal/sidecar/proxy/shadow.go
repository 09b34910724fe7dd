package proxy

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/specproxy/specproxy/internal/drain"
)

// Mirror says of a request that it was copied to a shadowed version, or is the copy.
type Mirror struct {
	// Version gets the copies, since the route generation Since; Pair is what a request and its copy have in common.
	Version string
	Since   uint64
	Pair    string
}

// readMirror reads "version generation pair"; nil if it is nothing of the kind.
func readMirror(value string) *Mirror {
	fields := strings.Fields(value)
	if len(fields) != 3 || len(value) > maxHeader {
		return nil
	}
	since, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return nil
	}
	return &Mirror{Version: fields[0], Since: since, Pair: fields[2]}
}

// shadow says that the request is a copy: it names this sidecar's own version as the one that gets the copies, which no draw leads to. What was
// handed over here still says how it was sent the first time, and is none.
func (p *Proxy) shadow(a arrival) bool {
	return a.mirror != nil && a.mirror.Version == p.Ref.Version && a.hop == 0
}

// serveShadow serves a copy of a request, beside the ledger: nothing waits for it and nobody sees its answer. It is never passed on.
func (p *Proxy) serveShadow(w *response, r *http.Request, a arrival) {
	w.account.shadow = true
	state := p.Posture()
	switch {
	case state == nil:
		p.notReady(w, a)
		return
	case p.Shadows == nil || state.Fence != nil || a.kind == upgrade || p.shadowless.Load():
		writeProblem(w, a.kind, codes.Unavailable, http.StatusServiceUnavailable, "No copies are taken here",
			"the version is not declared safe to be shadowed, or takes no work any more", false)
		return
	}
	x := p.admit(w, r, a, state)
	w.account.exchange = x
	if p.shadowless.Load() || p.Posture().Fence != nil { // since it was looked at
		p.EndShadows()
	}
	x.run()
}

// EndShadows cuts the copies that run.
func (p *Proxy) EndShadows() {
	if p.Shadows != nil {
		p.Shadows.Evict("it is a copy of a request, and its version takes no more work: cancel")
	}
}

// NoShadows cuts the copies that run, and refuses those that come.
func (p *Proxy) NoShadows() {
	p.shadowless.Store(true)
	p.EndShadows()
}

// Acted counts the copies that reported an act worse than reading, though they had been told to do nothing.
func (p *Proxy) Acted() uint64 { return p.acted.Load() }

// tell gives the outcome of a request that was copied, or of a copy, to whoever pairs them.
func (x *exchange) tell(row drain.Row) {
	p := x.proxy
	said := func(a drain.Act) bool { return a.Source != drain.SourceObserved && a.Touches() } // not what the request asks for
	if x.arrival.shadow && slices.ContainsFunc(row.Acts, said) {
		p.acted.Add(1)
		x.log().Error("a copy of a request reports an act, though its agent was told x-spec-shadow: the manifest's shadow: safe is wrong")
	}
	if x.arrival.mirror == nil || p.Mirrored == nil || row.Disposition == drain.Handover {
		return // what was handed over is told by where it ends
	}
	if row.Cut() {
		row.Outcome = ""
	}
	p.Mirrored(*x.arrival.mirror, x.arrival.shadow, row)
}
