package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// showProxy prints all that one proxy has.
func (a *app) showProxy(list *operatorv1.ListProxiesResponse, node string, format string) error {
	i := slices.IndexFunc(list.GetProxies(), func(p *operatorv1.Proxy) bool { return p.GetNode() == node })
	if i < 0 {
		return fmt.Errorf("proxy %s has not been seen in the last 24 hours\nnext: specctl proxies", node)
	}
	p := list.GetProxies()[i]
	if format == asJSON {
		return a.out.json(p)
	}
	a.out.field("version", "%s", p.GetVersion())
	state := "connected"
	if !p.GetConnected() {
		state = "away since " + precise(p.GetLastSeen())
	}
	if p.GetReplica() != "" {
		state += ", at replica " + p.GetReplica()
	}
	a.out.field("state", "%s", state)
	if p.GetRefusal() != "" {
		a.out.styled(red, "refused", "%s", p.GetRefusal())
	}
	if len(p.GetSpecs()) == 0 {
		a.out.field("specs", "none yet: it fetches a spec's routes with its first request")
		return nil
	}
	t := newTable("SPEC", "GENERATION", "ACKNOWLEDGED", "REFUSED")
	for _, s := range p.GetSpecs() {
		generation, at := "?", "?"
		if s.GetAckedGeneration() > 0 {
			generation, at = strconv.FormatUint(s.GetAckedGeneration(), 10), precise(s.GetAckedAt())
		}
		t.row(s.GetSpec(), generation, at, s.GetRefusal())
	}
	a.out.print(t, "")
	return nil
}

// printReplicas names the processes of the control plane, if there are several.
func (a *app) printReplicas(replicas []*operatorv1.Replica) {
	names := make([]string, 0, len(replicas))
	for _, r := range replicas {
		name := r.GetName()
		if r.GetLeader() {
			name += " (leads)"
		}
		names = append(names, name)
	}
	if len(names) > 0 {
		a.out.field("replicas", "%s", strings.Join(names, ", "))
	}
}
