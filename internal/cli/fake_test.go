package cli_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/gen/specproxy/operator/v1/operatorv1connect"
	"github.com/specproxy/specproxy/internal/versions"
)

// now is the wall clock of every test.
var now = time.Date(2026, 11, 24, 14, 5, 7, 500_000_000, time.UTC)

func ago(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }

// fakeControl is a control plane in memory that keeps the API's promises as far as the command line can see them: immutable versions,
// growing generations, rollbacks that happen once and name their record. What the world around it does (pools, laggards, load) is set by
// its fields under mu.
type fakeControl struct {
	operatorv1connect.UnimplementedOperatorServiceHandler

	mu       sync.Mutex
	spec     *operatorv1.Spec // nil until something is published
	history  []*operatorv1.Change
	revision uint64
	moved    chan struct{} // closed and replaced when revision grows

	executions []*operatorv1.Execution
	proxies    []*operatorv1.Proxy
	records    []*operatorv1.PostMortem
	// laggards keep every change from being effective.
	laggards []string
	// refusals, too.
	refusals []string
	// token is demanded, if set.
	token string
	// asked is every method that was called, in order; actor the newest caller.
	asked []string
	actor string
	// weights is the newest SetWeights request.
	weights *operatorv1.SetWeightsRequest
	// rollback is the newest Rollback request.
	rollback *operatorv1.RollbackRequest
	// deployed is the newest Deploy request.
	deployed *operatorv1.DeployRequest
	// rollout is the spec's newest; planned is the plan that was sent last, nil: none.
	rollout *operatorv1.Rollout
	planned *operatorv1.RolloutPlan
	shadow  *operatorv1.Shadow
	// trickle of traffic makes plans impossible; hole is a proxy that keeps rehearsals from being proven.
	trickle, hole bool
	// aborts is how many questions for an effect end with a cut connection, as those of a control plane that dies.
	aborts int
}

func newFake() *fakeControl { return &fakeControl{moved: make(chan struct{})} }

// serve starts it on loopback and ends it with the test.
func serve(t testing.TB, f *fakeControl) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	admit := connect.WithInterceptors(connect.UnaryInterceptorFunc(f.admit))
	mux.Handle(operatorv1connect.NewOperatorServiceHandler(f, admit))
	mux.Handle(operatorv1connect.NewRolloutServiceHandler(fakeRollouts{fakeControl: f}, admit))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

func (f *fakeControl) admit(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		f.mu.Lock()
		token := f.token
		method := req.Spec().Procedure
		f.asked = append(f.asked, method[strings.LastIndex(method, "/")+1:])
		f.actor = req.Header().Get("x-specproxy-actor")
		f.mu.Unlock()
		if token != "" && req.Header().Get("Authorization") != "Bearer "+token {
			return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("the token is not known here: use the one in the data directory"))
		}
		return next(ctx, req)
	}
}

func (f *fakeControl) bump() {
	f.revision++
	close(f.moved)
	f.moved = make(chan struct{})
}

func (f *fakeControl) version(name string) *operatorv1.Version {
	for _, v := range f.spec.GetVersions() {
		if v.GetVersion() == name {
			return v
		}
	}
	return nil
}

func refuse(code connect.Code, format string, args ...any) error {
	return connect.NewError(code, fmt.Errorf(format, args...))
}

func (f *fakeControl) known(spec string) error {
	if f.spec.GetName() != spec || spec == "" {
		return refuse(connect.CodeNotFound, "there is no spec %s: publish one with specctl publish DIR, or see specctl", spec)
	}
	return nil
}

func (f *fakeControl) Publish(_ context.Context, req *connect.Request[operatorv1.PublishRequest]) (*connect.Response[operatorv1.PublishResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	files := map[string][]byte{}
	for _, file := range req.Msg.GetFiles() {
		files[file.GetPath()] = file.GetContent()
	}
	packed, err := versions.Pack(files)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	ref := packed.Ref()
	response := &operatorv1.PublishResponse{Spec: ref.Spec, Version: ref.Version, Digest: packed.Digest}
	if old := f.version(ref.Version); old != nil {
		if old.GetDigest() != packed.Digest {
			return nil, refuse(connect.CodeAlreadyExists, "%s is published as %s and cannot become %s: give it a new version", ref, old.GetDigest(), packed.Digest)
		}
		return connect.NewResponse(response), nil
	}
	response.Created = true
	if f.spec == nil {
		f.spec = &operatorv1.Spec{Name: ref.Spec, Hosts: packed.Manifest.Hosts}
	}
	f.spec.Versions = append(f.spec.Versions, &operatorv1.Version{
		Spec: ref.Spec, Version: ref.Version, Digest: packed.Digest, Standing: "published", PublishedAt: ago(time.Hour), PublishedBy: f.actor,
		Pool: &operatorv1.Pool{RecentSuccess: -1},
	})
	f.bump()
	return connect.NewResponse(response), nil
}

// change commits a split, as a rollback if it takes all weight from a version newer than the target.
func (f *fakeControl) change(kind, reason string, after []*operatorv1.Weight, dryRun bool) *operatorv1.Change {
	next := map[string]uint32{}
	c := &operatorv1.Change{
		Spec: f.spec.GetName(), Generation: f.spec.GetGeneration() + 1, Kind: kind, After: after, Actor: f.actor, DryRun: dryRun,
		CommittedAt: ago(300 * time.Millisecond),
	}
	for _, w := range after {
		next[w.GetVersion()] = w.GetBasisPoints()
		c.Target = w.GetVersion()
	}
	for _, v := range f.spec.GetVersions() {
		if v.GetWeight() == 0 {
			continue
		}
		c.Before = append(c.Before, &operatorv1.Weight{Version: v.GetVersion(), BasisPoints: v.GetWeight()})
		if next[v.GetVersion()] == 0 && versions.Compare(v.GetVersion(), c.GetTarget()) > 0 {
			c.Abandoned = append(c.Abandoned, v.GetVersion())
		}
	}
	target := f.version(c.GetTarget())
	c.Capacity = &operatorv1.Capacity{Ready: target.GetPool().GetReady(), Rate: 41.5}
	if c.Capacity.Ready > 0 {
		c.Capacity.PerInstance = c.Capacity.Rate / float64(c.Capacity.Ready)
		c.Capacity.SeenPerInstance = 25
	}
	if len(c.GetAbandoned()) > 0 {
		c.Kind = "rollback"
		c.TargetReason = "newest good version, held all the weight until 13:58:00Z"
		c.Postmortem = fmt.Sprintf("PM-%d", len(f.records)+1)
		c.Plans = []*operatorv1.Plan{
			{Version: c.Abandoned[0], Rule: "rule 1: effects=none", Disposition: "handover", Executions: 3},
			{Version: c.Abandoned[0], Rule: "rule 2: effects=irreversible", Disposition: "complete", Executions: 2, Then: "hold", Within: durationpb.New(15 * time.Minute)},
			{Version: c.Abandoned[0], Rule: "default", Disposition: "complete", Executions: 12, Then: "cancel", Within: durationpb.New(2 * time.Minute)},
		}
	}
	if !dryRun {
		f.commit(c, next, reason)
	}
	return c
}

func (f *fakeControl) commit(c *operatorv1.Change, next map[string]uint32, reason string) {
	for _, v := range f.spec.GetVersions() {
		v.Weight = next[v.GetVersion()]
		if v.GetWeight() > 0 && v.GetStanding() == "published" {
			v.Standing = "candidate"
		}
		if slices.Contains(c.GetAbandoned(), v.GetVersion()) {
			v.Standing, v.Postmortem = "quarantined", c.GetPostmortem()
			v.Pool.Fenced = true
			f.spec.Drains = append(f.spec.Drains, &operatorv1.Drain{
				Version: v.GetVersion(), Target: c.GetTarget(), Generation: c.GetGeneration(), State: "draining", OrderedAt: c.GetCommittedAt(),
				InFlight: 9, Completed: 2, HandedOver: 3, Cancelled: 5, Postmortem: c.GetPostmortem(),
			})
		}
	}
	f.spec.Generation, f.spec.ChangedAt, f.spec.ChangedBy = c.GetGeneration(), c.GetCommittedAt(), c.GetActor()
	f.spec.LastChange = c.GetKind() + " to " + c.GetTarget()
	if c.GetPostmortem() != "" {
		f.spec.LastChange += " (" + c.GetPostmortem() + ")"
		f.spec.Freeze = &operatorv1.Freeze{Since: c.GetCommittedAt(), Postmortem: c.GetPostmortem()}
		f.records = append(f.records, &operatorv1.PostMortem{
			Id: c.GetPostmortem(), State: "open", OpenedAt: c.GetCommittedAt(), Actor: c.GetActor(), Reason: reason,
			Changes: []*operatorv1.Change{proto.CloneOf(c)}, Markdown: "# " + c.GetPostmortem() + "\n\nWhy did the canary not catch it?\n",
			Json: `{"id":"` + c.GetPostmortem() + `","questions":["why did the canary not catch it"]}`,
		})
	}
	f.spec.Trouble, f.spec.Next = nil, ""
	f.history = append([]*operatorv1.Change{proto.CloneOf(c)}, f.history...)
	f.bump()
}

func (f *fakeControl) Deploy(_ context.Context, req *connect.Request[operatorv1.DeployRequest]) (*connect.Response[operatorv1.DeployResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deployed = req.Msg
	response := &operatorv1.DeployResponse{}
	for _, ref := range req.Msg.GetRefs() {
		if err := f.known(ref.GetSpec()); err != nil {
			return nil, err
		}
		v := f.version(ref.GetVersion())
		switch {
		case v == nil:
			return nil, refuse(connect.CodeNotFound, "there is no version %s of %s: see specctl versions %s", ref.GetVersion(), ref.GetSpec(), ref.GetSpec())
		case v.GetStanding() == "quarantined" && req.Msg.GetOverride() == nil:
			return nil, refuse(connect.CodeFailedPrecondition, "%s:%s is quarantined by %s: close it with specctl postmortem close %s, or use --override %s",
				ref.GetSpec(), ref.GetVersion(), v.GetPostmortem(), v.GetPostmortem(), v.GetPostmortem())
		case req.Msg.GetAutomation() && f.spec.GetFreeze() != nil:
			return nil, refuse(connect.CodeFailedPrecondition, "%s is frozen for automation: specctl unfreeze %s", ref.GetSpec(), ref.GetSpec())
		case v.GetWeight() == 10_000:
			again := proto.CloneOf(f.history[0])
			again.AlreadyDone = true
			response.Changes = append(response.Changes, again)
		default:
			response.Changes = append(response.Changes, f.change("deploy", req.Msg.GetReason(),
				[]*operatorv1.Weight{{Version: ref.GetVersion(), BasisPoints: 10_000}}, req.Msg.GetDryRun()))
		}
	}
	return connect.NewResponse(response), nil
}

func (f *fakeControl) SetWeights(_ context.Context, req *connect.Request[operatorv1.SetWeightsRequest]) (*connect.Response[operatorv1.SetWeightsResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.weights = req.Msg
	if err := f.known(req.Msg.GetSpec()); err != nil {
		return nil, err
	}
	for _, w := range req.Msg.GetWeights() {
		if f.version(w.GetVersion()) == nil {
			return nil, refuse(connect.CodeNotFound, "there is no version %s of %s: see specctl versions %s", w.GetVersion(), req.Msg.GetSpec(), req.Msg.GetSpec())
		}
	}
	c := f.change("weights", req.Msg.GetReason(), req.Msg.GetWeights(), req.Msg.GetDryRun())
	return connect.NewResponse(&operatorv1.SetWeightsResponse{Change: c}), nil
}

func (f *fakeControl) Rollback(_ context.Context, req *connect.Request[operatorv1.RollbackRequest]) (*connect.Response[operatorv1.RollbackResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rollback = req.Msg
	response := &operatorv1.RollbackResponse{}
	for _, target := range req.Msg.GetTargets() {
		if err := f.known(target.GetSpec()); err != nil {
			return nil, err
		}
		if len(f.history) > 0 && f.history[0].GetKind() == "rollback" {
			again := proto.CloneOf(f.history[0])
			again.AlreadyDone = true
			response.Changes = append(response.Changes, again)
			continue
		}
		to := target.GetTo()
		if to == "" {
			to = f.spec.GetExit()
		}
		v := f.version(to)
		switch {
		case v == nil:
			return nil, refuse(connect.CodeFailedPrecondition, "%s has no earlier good version; candidates: 2.0.2, 2.0.1: specctl rollback %s --to 2.0.2", target.GetSpec(), target.GetSpec())
		case v.GetPool().GetReady() == 0 && !req.Msg.GetNow():
			return nil, refuse(connect.CodeFailedPrecondition, "%s:%s has no ready instance: start one, or go there all the same with --now", target.GetSpec(), to)
		}
		response.Changes = append(response.Changes, f.change("rollback", req.Msg.GetReason(),
			[]*operatorv1.Weight{{Version: to, BasisPoints: 10_000}}, req.Msg.GetDryRun()))
	}
	return connect.NewResponse(response), nil
}

func (f *fakeControl) Undo(_ context.Context, req *connect.Request[operatorv1.UndoRequest]) (*connect.Response[operatorv1.UndoResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, record := range f.records {
		if record.GetId() == req.Msg.GetPostmortem() {
			f.history = nil
			c := f.change("undo", req.Msg.GetReason(), record.GetChanges()[0].GetBefore(), false)
			return connect.NewResponse(&operatorv1.UndoResponse{Changes: []*operatorv1.Change{c}}), nil
		}
	}
	return nil, refuse(connect.CodeNotFound, "there is no post-mortem %s: see specctl postmortem list", req.Msg.GetPostmortem())
}

func (f *fakeControl) Unfreeze(_ context.Context, req *connect.Request[operatorv1.UnfreezeRequest]) (*connect.Response[operatorv1.UnfreezeResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.known(req.Msg.GetSpec()); err != nil {
		return nil, err
	}
	f.spec.Freeze = nil
	return connect.NewResponse(&operatorv1.UnfreezeResponse{}), nil
}

func (f *fakeControl) GetEffect(ctx context.Context, req *connect.Request[operatorv1.GetEffectRequest]) (*connect.Response[operatorv1.GetEffectResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.aborts > 0 {
		f.aborts--
		panic(http.ErrAbortHandler)
	}
	response := &operatorv1.GetEffectResponse{
		Spec: req.Msg.GetSpec(), Generation: req.Msg.GetGeneration(), CommittedAt: f.history[0].GetCommittedAt(),
		ProxiesAcked: 2, ProxiesTotal: 2, LastAdmissionAt: ago(303 * time.Millisecond), LastAdmissionId: "x-17",
	}
	if len(f.history[0].GetAbandoned()) > 0 {
		response.FencesAcked, response.FencesTotal = 2, 2
	}
	if len(f.refusals) > 0 {
		response.Refusals = f.refusals
		response.ProxiesAcked--
		return connect.NewResponse(response), nil
	}
	if len(f.laggards) == 0 {
		response.Effective, response.By, response.EffectiveAt = true, "route and fence", ago(288*time.Millisecond)
		return connect.NewResponse(response), nil
	}
	response.Laggards = f.laggards
	response.ProxiesAcked--
	f.mu.Unlock()
	defer f.mu.Lock()
	wait, cancel := context.WithTimeout(ctx, req.Msg.GetWait().AsDuration())
	defer cancel()
	<-wait.Done()
	return connect.NewResponse(response), ctx.Err()
}

func (f *fakeControl) GetFleet(context.Context, *connect.Request[operatorv1.GetFleetRequest]) (*connect.Response[operatorv1.GetFleetResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	response := &operatorv1.GetFleetResponse{ProxiesConnected: 1, ProxiesKnown: 2, PostmortemsOpen: uint32(len(f.records))}
	if f.spec != nil {
		response.Specs, response.SpecsTotal = []*operatorv1.Spec{proto.CloneOf(f.spec)}, 1
		if len(f.spec.GetTrouble()) > 0 {
			response.SpecsInTrouble = 1
		}
	}
	return connect.NewResponse(response), nil
}

func (f *fakeControl) GetSpec(ctx context.Context, req *connect.Request[operatorv1.GetSpecRequest]) (*connect.Response[operatorv1.GetSpecResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.known(req.Msg.GetSpec()); err != nil {
		return nil, err
	}
	if f.revision <= req.Msg.GetAfterRevision() {
		moved := f.moved
		f.mu.Unlock()
		wait, cancel := context.WithTimeout(ctx, req.Msg.GetWait().AsDuration())
		select {
		case <-moved:
		case <-wait.Done():
		}
		cancel()
		f.mu.Lock()
	}
	response := &operatorv1.GetSpecResponse{Spec: proto.CloneOf(f.spec), Revision: f.revision}
	for _, c := range f.history {
		response.History = append(response.History, proto.CloneOf(c))
	}
	return connect.NewResponse(response), nil
}

func (f *fakeControl) ListVersions(_ context.Context, req *connect.Request[operatorv1.ListVersionsRequest]) (*connect.Response[operatorv1.ListVersionsResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.known(req.Msg.GetSpec()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.ListVersionsResponse{Versions: proto.CloneOf(f.spec).GetVersions()}), nil
}

func (f *fakeControl) ListEffects(_ context.Context, req *connect.Request[operatorv1.ListEffectsRequest]) (*connect.Response[operatorv1.ListEffectsResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.known(req.Msg.GetSpec()); err != nil {
		return nil, err
	}
	if req.Msg.GetVersion() == "2.0.2" {
		return connect.NewResponse(&operatorv1.ListEffectsResponse{}), nil
	}
	return connect.NewResponse(&operatorv1.ListEffectsResponse{
		Effects: []*operatorv1.Effect{
			{Version: "2.1.0", Execution: "x-2", Tool: "refund.issue", Class: "irreversible", Key: "r-1", At: ago(time.Minute), Source: "guarded", Running: true},
			{Version: "2.1.0", Execution: "x-7", ExecutionKey: "order-7", Instance: "a", Tool: "ticket.open", Class: "compensable", Key: "t,2", Compensation: "ticket.close",
				At: ago(2 * time.Minute), Source: "reported", Outcome: "failure", Reason: "no \x1b[31msuch order", Disposition: "complete"},
			{Version: "2.1.0", Execution: "x-8", Tool: "note", Class: "compensable", Source: "observed"},
		},
		Counts:  []*operatorv1.EffectCount{{Version: "2.1.0", Class: "irreversible", Acts: 1, Executions: 1}, {Version: "2.1.0", Class: "compensable", Acts: 2, Executions: 2}},
		Omitted: 4,
	}), nil
}

func (f *fakeControl) ListExecutions(_ context.Context, req *connect.Request[operatorv1.ListExecutionsRequest]) (*connect.Response[operatorv1.ListExecutionsResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.known(req.Msg.GetSpec()); err != nil {
		return nil, err
	}
	response := &operatorv1.ListExecutionsResponse{}
	for _, x := range f.executions {
		failed := x.GetOutcome() == "failure" || x.GetDisposition() == "cancel" && x.GetEndedAt().IsValid()
		wanted := failed == req.Msg.GetFailed()
		if req.Msg.GetDecided() {
			wanted = x.GetDisposition() != ""
		}
		if wanted && (req.Msg.GetVersion() == "" || req.Msg.GetVersion() == x.GetVersion()) {
			response.Executions = append(response.Executions, proto.CloneOf(x))
		}
	}
	if req.Msg.GetFailed() {
		response.Omitted = 7
	}
	return connect.NewResponse(response), nil
}

func (f *fakeControl) ListProxies(context.Context, *connect.Request[operatorv1.ListProxiesRequest]) (*connect.Response[operatorv1.ListProxiesResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return connect.NewResponse(&operatorv1.ListProxiesResponse{Proxies: f.proxies}), nil
}

func (f *fakeControl) ListPostMortems(context.Context, *connect.Request[operatorv1.ListPostMortemsRequest]) (*connect.Response[operatorv1.ListPostMortemsResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return connect.NewResponse(&operatorv1.ListPostMortemsResponse{Postmortems: f.records}), nil
}

func (f *fakeControl) GetPostMortem(_ context.Context, req *connect.Request[operatorv1.GetPostMortemRequest]) (*connect.Response[operatorv1.GetPostMortemResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, record := range f.records {
		if record.GetId() == req.Msg.GetId() {
			return connect.NewResponse(&operatorv1.GetPostMortemResponse{Postmortem: proto.CloneOf(record)}), nil
		}
	}
	return nil, refuse(connect.CodeNotFound, "there is no post-mortem %s: see specctl postmortem list", req.Msg.GetId())
}

func (f *fakeControl) ClosePostMortem(_ context.Context, req *connect.Request[operatorv1.ClosePostMortemRequest]) (*connect.Response[operatorv1.ClosePostMortemResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, record := range f.records {
		if record.GetId() == req.Msg.GetId() {
			record.State, record.Cause, record.Note, record.ClosedBy = "closed", req.Msg.GetCause(), req.Msg.GetNote(), f.actor
			return connect.NewResponse(&operatorv1.ClosePostMortemResponse{Postmortem: proto.CloneOf(record)}), nil
		}
	}
	return nil, refuse(connect.CodeNotFound, "there is no post-mortem %s: see specctl postmortem list", req.Msg.GetId())
}
