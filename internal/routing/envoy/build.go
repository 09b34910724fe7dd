package envoy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/specproxy/specproxy/internal/routing"
)

// Build makes the resources of one spec. An error names the spec and what is wrong with its route; then there are no resources at all,
// and the caller keeps the last good ones. What merely cannot be an endpoint is left out and named in Skipped: one bad registration
// must not stand in the way of a rollback.
func Build(s Spec) (Resources, error) {
	res := Resources{Spec: s.Name}
	if len(s.Route.Splits) == 0 {
		return res, nil
	}
	pools, err := livePools(s)
	if err != nil {
		return Resources{}, fmt.Errorf("spec %s, generation %d: %w", s.Name, s.Route.Generation, err)
	}
	if res.Scopes, err = scopes(s); err != nil {
		return Resources{}, fmt.Errorf("spec %s: %w", s.Name, err)
	}
	if res.Route, err = route(s, pools); err != nil {
		return Resources{}, fmt.Errorf("spec %s: %w", s.Name, err)
	}
	for _, p := range pools {
		name, needs := p.cluster(s.Name), p.needs()
		c, err := cluster(name, needs)
		if err != nil {
			return Resources{}, fmt.Errorf("spec %s: %w", s.Name, err)
		}
		a, skipped, err := assignment(name, p.Instances)
		if err != nil {
			return Resources{}, fmt.Errorf("spec %s: %w", s.Name, err)
		}
		res.Clusters = append(res.Clusters, c)
		res.Assignments = append(res.Assignments, a)
		res.Skipped = append(res.Skipped, skipped...)
	}
	byName := func(a, b *Resource) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(res.Clusters, byName)
	slices.SortFunc(res.Assignments, byName)
	return res, nil
}

// livePools checks the route against the pools and returns the live ones in the order in which the weighted route lists them: newest
// holder of weight first, then those without weight by version. With the newest first, hashed requests only ever join it as its weight
// grows; none that it has leaves it.
func livePools(s Spec) ([]Pool, error) {
	if s.Name == "" || strings.ContainsAny(s.Name, "@/") || !utf8.ValidString(s.Name) {
		return nil, fmt.Errorf("%q cannot be a spec's name", s.Name)
	}
	var sum uint32
	rank := make(map[string]int, len(s.Route.Splits))
	for i, split := range s.Route.Splits {
		if _, twice := rank[split.Version]; twice {
			return nil, fmt.Errorf("version %s has two weights", split.Version)
		}
		if split.BasisPoints > routing.Full {
			return nil, fmt.Errorf("version %s has %d basis points, more than all (%d)", split.Version, split.BasisPoints, routing.Full)
		}
		sum += split.BasisPoints
		rank[split.Version] = len(s.Route.Splits) - i
	}
	if sum != routing.Full {
		return nil, fmt.Errorf("weights sum to %d basis points, not %d", sum, routing.Full)
	}
	var live []Pool
	seen, pins := map[string]bool{}, map[string]string{}
	for _, p := range s.Pools {
		if seen[p.Version] {
			return nil, fmt.Errorf("version %s has two pools", p.Version)
		}
		seen[p.Version] = true
		if !p.Live {
			continue
		}
		if p.Pin == "" {
			return nil, fmt.Errorf("version %s has no pin", p.Version)
		}
		if other, twice := pins[p.Pin]; twice {
			return nil, fmt.Errorf("versions %s and %s have the same pin", other, p.Version)
		}
		pins[p.Pin] = p.Version
		live = append(live, p)
	}
	isLive := func(version string) bool {
		return slices.ContainsFunc(live, func(p Pool) bool { return p.Version == version })
	}
	for _, split := range s.Route.Splits {
		if !isLive(split.Version) {
			return nil, fmt.Errorf("version %s has weight and no live pool", split.Version)
		}
	}
	if shadow := s.Route.Shadow; shadow != nil {
		switch {
		case shadow.BasisPoints == 0 || shadow.BasisPoints > routing.Full:
			return nil, fmt.Errorf("%d basis points of the requests are copied to version %s: between 1 and %d", shadow.BasisPoints, shadow.Version, routing.Full)
		case s.Route.Weight(shadow.Version) > 0:
			return nil, fmt.Errorf("version %s has weight and gets copies of requests: it could not tell which is which", shadow.Version)
		case !isLive(shadow.Version):
			return nil, fmt.Errorf("version %s gets copies of requests and has no live pool", shadow.Version)
		}
	}
	for _, t := range s.Route.HeaderTargets {
		if err := routing.CheckHeader(t.Header, t.Value); err != nil {
			return nil, err
		}
		if !isLive(t.Version) {
			return nil, fmt.Errorf("header %s leads to version %s, which has no live pool", t.Header, t.Version)
		}
	}
	slices.SortFunc(live, func(a, b Pool) int {
		ra, rb := rank[a.Version], rank[b.Version]
		switch {
		case ra != 0 && rb != 0:
			return cmp.Compare(ra, rb)
		case ra != 0:
			return -1
		case rb != 0:
			return 1
		}
		return cmp.Compare(a.Version, b.Version)
	})
	return live, nil
}

// scopes makes one on-demand scope per host: an Envoy learns of every host, and fetches a spec's routes with its first request.
func scopes(s Spec) ([]*Resource, error) {
	hosts := slices.Clone(s.Hosts)
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	out := make([]*Resource, 0, len(hosts))
	for _, host := range hosts {
		if host == "" || strings.ContainsAny(host, ": /") || !utf8.ValidString(host) {
			return nil, fmt.Errorf("%q cannot be a host name (no port, no path)", host)
		}
		r, err := newResource(host, &routev3.ScopedRouteConfiguration{
			Name:                   host,
			OnDemand:               true,
			RouteConfigurationName: RouteName(s.Name),
			Key: &routev3.ScopedRouteConfiguration_Key{Fragments: []*routev3.ScopedRouteConfiguration_Key_Fragment{{
				Type: &routev3.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: host},
			}}},
		})
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}
