package discovery

import (
	"context"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/specproxy/specproxy/internal/routing/envoy"
)

// stream is one Envoy's ADS stream.
type stream struct {
	server  *Server
	grpc    discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	log     *zap.Logger
	mailbox *mailbox

	// node and session are set by the first request.
	node    string
	session *session
	// listener is this Envoy's own, from its node metadata; nil if it names none.
	listener *envoy.Resource

	feeds map[string]*feed
	// specs followed, with the entry last looked at: those whose route the client asked for, and the resumed ones.
	specs map[string]*entry
	// resumed are specs whose clusters the client brought along; until it has asked for routes it may have theirs too.
	resumed map[string]struct{}
	nonce   uint64
	// hostsDue is when hosts may be sent again, and hostsRing rings the mailbox then.
	hostsDue  time.Time
	hostsRing bool
}

func newStream(s *Server, g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) *stream {
	st := &stream{
		server:  s,
		grpc:    g,
		log:     s.log,
		mailbox: newMailbox(),
		feeds:   make(map[string]*feed, len(pushOrder)),
		specs:   map[string]*entry{},
		resumed: map[string]struct{}{},
	}
	for _, typeURL := range pushOrder {
		st.feeds[typeURL] = newFeed(typeURL)
	}
	return st
}

func (s *stream) leave() {
	if s.session != nil {
		s.session.close(s.server.now())
	}
	s.server.catalog.leave(s.mailbox, s.specs)
}

// hello reads the node, which comes with the first request only.
func (s *stream) hello(node *corev3.Node) error {
	if node.GetId() == "" {
		return status.Error(codes.InvalidArgument, "the first request names no node; start Envoy with the output of `xds bootstrap --node NAME`")
	}
	s.node = node.GetId()
	s.log = s.log.With(zap.String("node", s.node))
	s.session = s.server.ledger.connect(s.node, nodeVersion(node), s.server.now())
	said, opts := node.GetMetadata().GetFields(), s.server.listener
	if hops := said[envoy.MetadataTrustedHops].GetNumberValue(); hops > 0 && hops <= math.MaxUint32 {
		opts.TrustedHops = uint32(hops)
	}
	listener, err := envoy.Listener(said[envoy.MetadataListen].GetStringValue(), opts)
	if err != nil {
		// It is served all the same: an operator finds it in the list of proxies, with the reason.
		s.log.Warn("proxy has no usable listen address in its node metadata", zap.Error(err))
		s.session.problem(err.Error() + "; start Envoy with the output of `xds bootstrap`")
		return nil
	}
	s.listener = listener
	s.session.listens(reachable(s.grpc.Context(), said[envoy.MetadataListen].GetStringValue()))
	return nil
}

// reachable is a listen address as it is seen from here, empty if it cannot be: one that names no host is where the proxy's stream comes from, and
// another machine's loopback is not ours.
func reachable(stream context.Context, listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "0" {
		return ""
	}
	ip, err := netip.ParseAddr(host)
	from, known := peer.FromContext(stream)
	if err != nil || !known {
		return ""
	}
	at, ok := from.Addr.(*net.TCPAddr)
	switch {
	case !ok || ip.IsLoopback() && !at.IP.IsLoopback():
		return ""
	case ip.IsUnspecified():
		return net.JoinHostPort(at.IP.String(), port)
	}
	return listen
}

func nodeVersion(node *corev3.Node) string {
	name := node.GetUserAgentName()
	v := node.GetUserAgentBuildVersion().GetVersion()
	if v == nil {
		return strings.TrimSpace(name + " " + node.GetUserAgentVersion())
	}
	return name + " " + strconv.Itoa(int(v.MajorNumber)) + "." + strconv.Itoa(int(v.MinorNumber)) + "." + strconv.Itoa(int(v.Patch))
}

// request takes in one message: perhaps an answer to a push, perhaps a change of what the client wants, often both.
func (s *stream) request(req *discoveryv3.DeltaDiscoveryRequest) error {
	if s.session == nil {
		if err := s.hello(req.GetNode()); err != nil {
			return err
		}
	}
	f, ok := s.feeds[req.GetTypeUrl()]
	if !ok {
		s.log.Warn("proxy asks for a resource type that does not exist here", zap.String("type", req.GetTypeUrl()))
		return nil
	}
	if f.flight != nil && req.GetResponseNonce() == f.flight.nonce {
		if detail := req.GetErrorDetail(); detail != nil {
			s.refused(f, detail.GetMessage())
		} else {
			s.acknowledged(f)
		}
		if f.typeURL == envoy.TypeCluster && !s.feeds[envoy.TypeRoute].seen {
			s.settle() // it has no routes
		}
	}
	first := !f.seen
	if first {
		s.begin(f, req)
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		s.unsubscribe(f, name)
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		s.subscribe(f, name, req.GetInitialResourceVersions())
	}
	if first {
		f.forgetUnwanted()
		if f.typeURL == envoy.TypeRoute {
			s.settle()
		}
	}
	return nil
}

// begin is the first request of a type: what the client has from an earlier stream, and whether it wants everything.
func (s *stream) begin(f *feed, req *discoveryv3.DeltaDiscoveryRequest) {
	f.seen = true
	brought := req.GetInitialResourceVersions()
	f.wildcard = f.mayBeWildcard() && len(req.GetResourceNamesSubscribe()) == 0
	switch f.typeURL {
	case envoy.TypeCluster:
		for name := range brought {
			if spec, ok := envoy.SpecOfCluster(name); ok {
				s.resumed[spec] = struct{}{}
				s.follow(spec)
			}
		}
		s.session.resumes(s.resumed)
	case envoy.TypeEndpoint:
		s.session.asksEndpoints()
	}
	if !f.forgetful {
		for name, version := range brought {
			f.held[name] = holding{version: version}
			f.mark(name)
		}
	}
	if f.wildcard {
		s.wildcard(f, brought)
	}
}

// wildcard marks everything that the client is meant to have and has not.
func (s *stream) wildcard(f *feed, brought map[string]string) {
	// Clusters are answered even if there is nothing to say: the acknowledgement is proof that every first request has come, since a client
	// sends those of all types when the stream begins, before it reads anything.
	f.wildcard, f.owed = true, len(brought) == 0 || f.typeURL == envoy.TypeCluster
	switch f.typeURL {
	case envoy.TypeListener:
		if s.listener != nil {
			f.mark(s.listener.Name)
		}
	case envoy.TypeCluster:
		for _, e := range s.specs {
			markAll(f, e)
		}
	case envoy.TypeScope:
		c := s.server.catalog
		c.mu.RLock()
		defer c.mu.RUnlock()
		for host, r := range c.scopes {
			if brought[host] != r.Version {
				f.mark(host)
			}
		}
		for host := range brought {
			if c.scopes[host] == nil {
				f.mark(host)
			}
		}
	}
}

func (s *stream) subscribe(f *feed, name string, brought map[string]string) {
	if name == "*" {
		if !f.wildcard {
			s.wildcard(f, brought)
		}
		return
	}
	_, again := f.names[name]
	f.names[name] = struct{}{}
	f.mark(name)
	if _, held := f.held[name]; !held || again {
		// Whoever asks again for what it has gets it again: Envoy does so when it has lost it.
		f.asked[name] = struct{}{}
		delete(f.refused, name)
	}
	switch f.typeURL {
	case envoy.TypeRoute:
		if spec, ok := envoy.SpecOfRoute(name); ok {
			// Our own version tells the generation: what it brought along is as good as acknowledged.
			s.session.subscribed(spec, envoy.GenerationOf(f.held[name].version))
			markAll(s.feeds[envoy.TypeCluster], s.follow(spec))
		}
	case envoy.TypeEndpoint:
		s.session.endpointsAsked(name)
	}
}

func (s *stream) unsubscribe(f *feed, name string) {
	if name == "*" {
		f.wildcard = false
		return
	}
	f.drop(name)
	switch f.typeURL {
	case envoy.TypeRoute:
		if spec, ok := envoy.SpecOfRoute(name); ok {
			delete(s.resumed, spec)
			s.unfollow(spec)
			s.session.unsubscribed(spec)
		}
	case envoy.TypeEndpoint:
		s.session.endpointsDropped(name)
	}
}

// settle ends the uncertainty after a reconnect: the client has now named all the routes that it has.
func (s *stream) settle() {
	routes := s.feeds[envoy.TypeRoute]
	for spec := range s.resumed {
		if _, ok := routes.names[envoy.RouteName(spec)]; !ok {
			s.unfollow(spec)
		}
	}
	clear(s.resumed)
	s.session.settled()
}

// follow makes the clusters of a spec this client's business.
func (s *stream) follow(spec string) *entry {
	if e, ok := s.specs[spec]; ok {
		return e
	}
	e := s.server.catalog.follow(s.mailbox, spec)
	s.specs[spec] = e
	return e
}

func (s *stream) unfollow(spec string) {
	e, ok := s.specs[spec]
	if !ok {
		return
	}
	s.server.catalog.unfollow(s.mailbox, spec)
	delete(s.specs, spec)
	markAll(s.feeds[envoy.TypeCluster], e)
}

func markAll(clusters *feed, e *entry) {
	if e == nil {
		return
	}
	for _, c := range e.Clusters {
		clusters.mark(c.Name)
	}
}

// changed takes in what the catalog has published since the last look, whole publications only.
func (s *stream) changed() {
	s.server.catalog.mu.RLock()
	specs, hosts := s.mailbox.take()
	s.server.catalog.mu.RUnlock()
	scopes := s.feeds[envoy.TypeScope]
	for host := range hosts {
		if scopes.wildcard {
			scopes.mark(host)
		}
	}
	clusters, endpoints, routes := s.feeds[envoy.TypeCluster], s.feeds[envoy.TypeEndpoint], s.feeds[envoy.TypeRoute]
	for spec := range specs {
		before, follows := s.specs[spec]
		if !follows {
			continue
		}
		now := s.server.catalog.entryOf(spec)
		s.specs[spec] = now
		if before == nil || before.broken {
			// What it held of the spec was not known till now.
			for name := range clusters.held {
				if owner, _ := envoy.SpecOfCluster(name); owner == spec {
					clusters.mark(name)
				}
			}
		}
		// What is unchanged has kept its identity.
		for _, name := range changedNames(before.clusters(), now.clusters()) {
			clusters.mark(name)
		}
		if s.server.order == RemoveFirst {
			markAll(clusters, now) // there the route decides over clusters
		}
		for _, name := range changedNames(before.assignments(), now.assignments()) {
			if endpoints.wants(name) {
				endpoints.mark(name)
			}
		}
		if name := envoy.RouteName(spec); routes.wants(name) {
			routes.mark(name)
		}
	}
}

func (s *stream) acknowledged(f *feed) {
	s.session.acknowledged(f.typeURL, f.acknowledge(), s.server.now())
}

func (s *stream) refused(f *feed, message string) {
	p := f.refuse()
	names := make([]string, 0, len(p.upserts)+len(p.removals))
	for _, r := range p.upserts {
		names = append(names, r.Name)
	}
	names = append(names, p.removals...)
	s.log.Warn("proxy refused an update and keeps what it had", zap.String("type", f.typeURL), zap.Strings("resources", names),
		zap.String("reason", message))
	s.server.metrics.refused(f.typeURL)
	s.session.refused(f.typeURL, p, message)
}

// push sends what may be sent, in order, at most one unacknowledged push per type.
func (s *stream) push() error {
	for _, typeURL := range pushOrder {
		f := s.feeds[typeURL]
		p := s.planned(f)
		if p == nil {
			continue
		}
		s.nonce++
		p.nonce = strconv.FormatUint(s.nonce, 36)
		f.flight = p
		res := response(typeURL, p)
		size := proto.Size(res)
		s.server.metrics.pushed(typeURL, size)
		if s.server.observe != nil {
			s.server.observe(Push{Node: s.node, Type: typeURL, Upserted: names(p.upserts), Removed: p.removals, Bytes: size})
		}
		if err := s.grpc.Send(res); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) planned(f *feed) *push {
	if !f.seen || f.flight != nil {
		return nil
	}
	c := s.server.catalog
	c.mu.RLock()
	defer c.mu.RUnlock()
	if f.typeURL == envoy.TypeScope && s.hostsWait(f) {
		return nil
	}
	p := s.plan(f)
	if p != nil && f.typeURL == envoy.TypeScope {
		s.hostsDue = time.Now().Add(hostsPause(len(c.all)))
	}
	if p != nil && f.typeURL == envoy.TypeEndpoint {
		for _, r := range p.upserts {
			s.session.endpointsSent(r.Name, r)
		}
		for _, name := range p.removals {
			s.session.endpointsSent(name, nil)
		}
	}
	return p
}

// hostsWait says that new hosts are not sent yet. Every proxy is told of every host, so where thousands are connected and specs are published all
// the time, flips would wait behind as many pushes a host. What comes in the meantime comes in one push.
func (s *stream) hostsWait(f *feed) bool {
	wait := time.Until(s.hostsDue)
	if wait <= 0 || len(f.dirty) == 0 {
		s.hostsRing = false
		return false
	}
	if !s.hostsRing {
		s.hostsRing = true
		time.AfterFunc(wait, s.mailbox.ring)
	}
	return true
}

const (
	// hostPushes is how many pushes of hosts a second all streams take together; few is a number of streams that need no such care.
	hostPushes, few = 4_000, 100
)

// hostsPause is how long a proxy is told of no more hosts. It is not the same for all, or all would be told at the same time.
func hostsPause(streams int) time.Duration {
	if streams <= few {
		return 0
	}
	mean := time.Duration(streams) * time.Second / hostPushes
	return mean/2 + rand.N(mean)
}

func response(typeURL string, p *push) *discoveryv3.DeltaDiscoveryResponse {
	res := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: p.nonce, RemovedResources: p.removals}
	for _, r := range p.upserts {
		res.Resources = append(res.Resources, &discoveryv3.Resource{Name: r.Name, Version: r.Version, Resource: r.Body})
	}
	return res
}

// changedNames are those of resources that are in one of two sorted lists alone, or another one in each.
func changedNames(before, now []*envoy.Resource) []string {
	var out []string
	for len(before) > 0 || len(now) > 0 {
		var order int
		switch {
		case len(before) == 0:
			order = 1
		case len(now) == 0:
			order = -1
		default:
			order = strings.Compare(before[0].Name, now[0].Name)
		}
		switch {
		case order < 0:
			out, before = append(out, before[0].Name), before[1:]
		case order > 0:
			out, now = append(out, now[0].Name), now[1:]
		default:
			if before[0] != now[0] {
				out = append(out, now[0].Name)
			}
			before, now = before[1:], now[1:]
		}
	}
	return out
}

func names(resources []*envoy.Resource) []string {
	out := make([]string, len(resources))
	for i, r := range resources {
		out[i] = r.Name
	}
	return out
}
