package discovery

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// wholeOrder is the order in which a gRPC client that has everything to learn is told. It makes before it breaks by itself: it goes on by an
// old route until it has the new one's clusters with their endpoints.
var wholeOrder = []string{envoy.TypeCluster, envoy.TypeEndpoint, envoy.TypeListener, envoy.TypeRoute}

// whole is one stream of the state-of-the-world variant, which gRPC clients speak: a request names all that the client wants of a type,
// and an answer has one version for all of it.
type whole struct {
	server  *Server
	grpc    discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer
	log     *zap.Logger
	mailbox *mailbox
	// node and session are set by the first request.
	node    string
	session *session

	lists map[string]*wholeList
	specs map[string]*entry // followed
	nonce uint64
}

// wholeList is one resource type on a stream.
type wholeList struct {
	typeURL string
	seen    bool
	names   map[string]struct{}
	// accepted and refused are versions of the whole list.
	accepted, refused string
	// held is what the client accepted on this stream, by name; floor the generations of routes that it had before.
	held   map[string]*envoy.Resource
	floor  map[string]uint64
	flight *wholePush
}

type wholePush struct {
	push
	version string
}

func newWhole(s *Server, g discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) *whole {
	w := &whole{
		server: s, grpc: g, log: s.log, mailbox: newMailbox(),
		lists: make(map[string]*wholeList, len(wholeOrder)), specs: map[string]*entry{},
	}
	for _, typeURL := range wholeOrder {
		w.lists[typeURL] = &wholeList{typeURL: typeURL, names: map[string]struct{}{}, held: map[string]*envoy.Resource{}, floor: map[string]uint64{}}
	}
	return w
}

func (w *whole) leave() {
	if w.session != nil {
		w.session.close(w.server.now())
	}
	w.server.catalog.leave(w.mailbox, w.specs)
}

// changed empties the mailbox: what has changed is found by looking at all that the client wants.
func (w *whole) changed() { w.mailbox.take() }

func (w *whole) hello(node *corev3.Node) error {
	if node.GetId() == "" {
		return status.Error(codes.InvalidArgument, "the first request names no node; give the client's xDS bootstrap a node.id")
	}
	w.node = node.GetId()
	w.log = w.log.With(zap.String("node", w.node))
	w.session = w.server.ledger.connect(w.node, nodeVersion(node), w.server.now())
	return nil
}

func (w *whole) request(req *discoveryv3.DiscoveryRequest) error {
	if w.session == nil {
		if err := w.hello(req.GetNode()); err != nil {
			return err
		}
	}
	l, ok := w.lists[req.GetTypeUrl()]
	if !ok {
		w.log.Warn("client asks for a resource type that gRPC clients do not use", zap.String("type", req.GetTypeUrl()))
		return nil
	}
	switch {
	case !l.seen:
		w.begin(l, req)
	case l.flight == nil || req.GetResponseNonce() != l.flight.nonce:
		if req.GetResponseNonce() != "" && l.flight != nil {
			return nil // it will answer the newer one
		}
	case req.GetErrorDetail() != nil:
		w.refused(l, req.GetErrorDetail().GetMessage())
	default:
		w.acknowledged(l)
	}
	w.subscribe(l, req.GetResourceNames())
	if !l.seen {
		l.seen = true
		if l.typeURL == envoy.TypeRoute {
			w.session.settled() // it has named all the routes that it has
		}
	}
	return nil
}

// begin is the first request of a type. A version that it carries is one that was accepted on an earlier stream, perhaps from another replica.
func (w *whole) begin(l *wholeList, req *discoveryv3.DiscoveryRequest) {
	l.accepted = req.GetVersionInfo()
	l.floor = generationsOf(l.accepted)
	if l.typeURL == envoy.TypeEndpoint {
		w.session.asksEndpoints()
	}
}

// subscribe makes the names those that the client wants.
func (w *whole) subscribe(l *wholeList, names []string) {
	wanted := make(map[string]struct{}, len(names))
	for _, name := range names {
		wanted[name] = struct{}{}
	}
	if maps.Equal(wanted, l.names) {
		return
	}
	before := l.names
	l.names = wanted
	for name := range before {
		if _, still := wanted[name]; still {
			continue
		}
		delete(l.held, name)
		delete(l.floor, name)
		switch l.typeURL {
		case envoy.TypeRoute:
			if spec, ok := envoy.SpecOfRoute(name); ok {
				w.session.unsubscribed(spec)
			}
		case envoy.TypeEndpoint:
			w.session.endpointsDropped(name)
		}
	}
	for name := range wanted {
		if _, had := before[name]; had {
			continue
		}
		switch l.typeURL {
		case envoy.TypeRoute:
			if spec, ok := envoy.SpecOfRoute(name); ok {
				w.session.subscribed(spec, l.floor[name])
			}
		case envoy.TypeEndpoint:
			w.session.endpointsAsked(name)
		}
	}
	w.follow()
}

// follow makes the changes of just those specs arrive that the client wants something of.
func (w *whole) follow() {
	want := map[string]struct{}{}
	for typeURL, l := range w.lists {
		for name := range l.names {
			if spec, ok := specOf(typeURL, name); ok {
				want[spec] = struct{}{}
			}
		}
	}
	for spec := range w.specs {
		if _, ok := want[spec]; !ok {
			w.server.catalog.unfollow(w.mailbox, spec)
			delete(w.specs, spec)
		}
	}
	for spec := range want {
		if _, ok := w.specs[spec]; !ok {
			w.specs[spec] = w.server.catalog.follow(w.mailbox, spec)
		}
	}
}

func (w *whole) acknowledged(l *wholeList) {
	p := l.flight
	l.flight, l.accepted, l.refused = nil, p.version, ""
	for _, r := range p.upserts {
		if _, wants := l.names[r.Name]; !wants {
			continue
		}
		l.held[r.Name] = r
		delete(l.floor, r.Name)
	}
	w.session.acknowledged(l.typeURL, &p.push, w.server.now())
	if l.typeURL == envoy.TypeListener && !w.lists[envoy.TypeRoute].seen {
		w.session.settled() // first requests of all types come before anything is read: it has no routes
	}
}

func (w *whole) refused(l *wholeList, message string) {
	p := l.flight
	l.flight, l.refused = nil, p.version
	w.log.Warn("client refused an update and keeps what it had", zap.String("type", l.typeURL), zap.Strings("resources", names(p.upserts)),
		zap.String("reason", message))
	w.server.metrics.refused(l.typeURL)
	w.session.refused(l.typeURL, &p.push, message)
}

// push sends every list that differs from what the client has, at most one unacknowledged push per type.
func (w *whole) push() error {
	for _, typeURL := range wholeOrder {
		l := w.lists[typeURL]
		if !l.seen || l.flight != nil {
			continue
		}
		p, err := w.plan(l)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		w.nonce++
		p.nonce = strconv.FormatUint(w.nonce, 36)
		l.flight = p
		res := &discoveryv3.DiscoveryResponse{TypeUrl: typeURL, Nonce: p.nonce, VersionInfo: p.version}
		for _, r := range p.upserts {
			res.Resources = append(res.Resources, r.Body)
		}
		size := proto.Size(res)
		w.server.metrics.pushed(typeURL, size)
		if w.server.observe != nil {
			w.server.observe(Push{Node: w.node, Type: typeURL, Upserted: names(p.upserts), Bytes: size})
		}
		if err := w.grpc.Send(res); err != nil {
			return err
		}
	}
	return nil
}

// plan compares a list as it should be with what the client has; nil: there is nothing to send.
func (w *whole) plan(l *wholeList) (*wholePush, error) {
	c := w.server.catalog
	c.mu.RLock()
	defer c.mu.RUnlock()
	var all []*envoy.Resource
	var absent []string
	for _, name := range slices.Sorted(maps.Keys(l.names)) {
		r, err := w.want(l, name)
		if err != nil {
			return nil, err
		}
		if r == nil {
			absent = append(absent, name)
			continue
		}
		if r.Generation < l.floor[name] {
			return nil, nil // it has a newer route than this replica knows; the replica will catch up
		}
		all = append(all, r)
	}
	version := versionOf(l.typeURL, all, absent)
	if version == l.refused {
		return nil, nil
	}
	if version == l.accepted {
		w.confirm(l, all)
		return nil, nil
	}
	p := &wholePush{push: push{seq: c.seq, upserts: all}, version: version}
	if l.typeURL == envoy.TypeRoute || l.typeURL == envoy.TypeEndpoint {
		// Of these an answer need not have all.
		p.upserts = slices.DeleteFunc(all, func(r *envoy.Resource) bool { return l.held[r.Name] != nil && l.held[r.Name].Version == r.Version })
	}
	if l.typeURL == envoy.TypeEndpoint {
		for _, r := range p.upserts {
			w.session.endpointsSent(r.Name, r)
		}
	}
	return p, nil
}

// confirm notes that what the client brought along is just what it should have.
func (w *whole) confirm(l *wholeList, all []*envoy.Resource) {
	if l.refused != "" {
		l.refused = ""
		for _, r := range all {
			w.session.overcome(l.typeURL, r.Name)
		}
	}
	for _, r := range all {
		if l.held[r.Name] != nil {
			continue
		}
		l.held[r.Name] = r
		if l.typeURL == envoy.TypeEndpoint {
			w.session.endpointsHeld(r.Name, r)
		}
	}
}

// want is what the catalog has under a name, nil if that is nothing. What the client still asks for though it is gone stays as it was: it asks
// until the last call on it has ended. The catalog is locked for reading.
func (w *whole) want(l *wholeList, name string) (*envoy.Resource, error) {
	c := w.server.catalog
	if l.typeURL == envoy.TypeListener {
		spec, ok := c.serves(name)
		if !ok {
			return nil, nil
		}
		return envoy.APIListener(name, spec)
	}
	spec, ok := specOf(l.typeURL, name)
	if !ok {
		return nil, nil
	}
	e := c.get(spec)
	var r *envoy.Resource
	switch {
	case e == nil || e.broken:
	case l.typeURL == envoy.TypeRoute:
		r = e.Route
	case l.typeURL == envoy.TypeCluster:
		r = e.cluster(name)
	default:
		r = e.assignment(name)
	}
	if r == nil {
		r = l.held[name]
	}
	return r, nil
}

// serves finds the routed spec that a client means which dials "xds:///NAME": by one of its hosts, with or without a port, or by its name.
// The caller holds mu.
func (c *catalog) serves(name string) (spec string, ok bool) {
	host := name
	if h, _, err := net.SplitHostPort(name); err == nil {
		host = h
	}
	if spec, ok := c.owners[host]; ok {
		return spec, true
	}
	e := c.specs[host]
	return host, e != nil && e.Route != nil
}

// versionOf names the content of a list, and what the client asked for in vain, so that it is told. That of routes also tells their generations, so that a client that comes back can be told what it
// has, and a replica that lags does not take a client back.
func versionOf(typeURL string, all []*envoy.Resource, absent []string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q\n", absent)
	var generations []string
	for _, r := range all {
		fmt.Fprintf(h, "%s=%s\n", r.Name, r.Version)
		if typeURL == envoy.TypeRoute {
			generations = append(generations, fmt.Sprintf("%s=%d", r.Name, r.Generation))
		}
	}
	version := hex.EncodeToString(h.Sum(nil)[:8])
	if len(generations) > 0 {
		version += ";" + strings.Join(generations, ";")
	}
	return version
}

// generationsOf reads the generations of routes, by their name, from a list's version.
func generationsOf(version string) map[string]uint64 {
	out := map[string]uint64{}
	for _, pair := range strings.Split(version, ";")[1:] {
		name, number, _ := strings.Cut(pair, "=")
		if g, err := strconv.ParseUint(number, 10, 64); err == nil {
			out[name] = g
		}
	}
	return out
}
