// Package api serves the operator API: it checks what came over the wire, calls the controller, and turns records into messages.
//
// Invariants: it changes nothing itself; every error names the object, the reason and the next command; reads come from one store view.
package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/gen/specproxy/operator/v1/operatorv1connect"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// maxMessage bounds a request: a version's folder is the largest thing that is sent.
const maxMessage = 128 << 20

// maxFiles bounds a folder that is published: what a version may consist of, and as much again that its manifest does not name.
const maxFiles = 2 * (versions.MaxDocuments + 1)

// maxWait bounds how long a read may wait for news.
const maxWait = time.Minute

// Server implements operatorv1connect.OperatorServiceHandler.
type Server struct {
	Store     *store.Store
	Control   *control.Controller
	Fleet     *fleet.Fleet
	Discovery *discovery.Server

	overview overview
	figures  postmortem.Figures
}

// calls is how every service is served.
var calls = connect.WithInterceptors(connect.UnaryInterceptorFunc(explain), connect.UnaryInterceptorFunc(admit))

// Handler is the API at its path.
func (s *Server) Handler() (string, http.Handler) {
	return operatorv1connect.NewOperatorServiceHandler(s, connect.WithReadMaxBytes(maxMessage), calls)
}

// explain maps the controller's errors to codes.
func explain(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, req)
		if err != nil {
			return nil, Explained(err)
		}
		return res, nil
	}
}

// Explained gives an error of the controller its code.
func Explained(err error) error {
	var known *connect.Error
	var conflict *control.Conflict
	var refused *control.Refused
	switch {
	case errors.As(err, &known):
		return err
	case control.IsNotFound(err):
		return connect.NewError(connect.CodeNotFound, err)
	case errors.As(err, &conflict):
		return connect.NewError(connect.CodeAlreadyExists, err)
	case errors.As(err, &refused):
		return connect.NewError(connect.CodeFailedPrecondition, err)
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, err)
	}
	return connect.NewError(connect.CodeInternal, err)
}

func invalid(message string) error {
	return connect.NewError(connect.CodeInvalidArgument, errors.New(message))
}

// Publish stores a version.
func (s *Server) Publish(ctx context.Context, req *connect.Request[operatorv1.PublishRequest]) (*connect.Response[operatorv1.PublishResponse], error) {
	if n := len(req.Msg.GetFiles()); n > maxFiles {
		return nil, invalid(fmt.Sprintf("%d files were sent: a version has at most %d documents; send those that spec.yaml names", n, versions.MaxDocuments))
	}
	files := map[string][]byte{}
	for _, f := range req.Msg.GetFiles() {
		if _, twice := files[f.GetPath()]; twice {
			return nil, invalid("file " + f.GetPath() + " was sent twice")
		}
		files[f.GetPath()] = f.GetContent()
	}
	p, err := s.Control.Publish(ctx, actor(ctx, req.Header(), false), files, req.Msg.GetDigest())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.PublishResponse{
		Spec: p.Record.Spec, Version: p.Record.Version, Digest: p.Record.Digest, Created: p.Created, Warnings: p.Warnings,
	}), nil
}

// Deploy gives versions all of their specs' traffic.
func (s *Server) Deploy(ctx context.Context, req *connect.Request[operatorv1.DeployRequest]) (*connect.Response[operatorv1.DeployResponse], error) {
	m := req.Msg
	refs := make([]versions.Ref, 0, len(m.GetRefs()))
	for _, r := range m.GetRefs() {
		refs = append(refs, versions.Ref{Spec: r.GetSpec(), Version: r.GetVersion()})
	}
	how := how(m.GetReason(), m.GetDryRun(), m.GetNow(), m.GetOverride())
	how.AtOnce, how.Impossible, how.NoRehearsal = m.GetAtOnce(), m.GetImpossible(), m.GetNoRehearsal()
	changes, err := s.Control.Deploy(ctx, actor(ctx, req.Header(), m.GetAutomation()), refs, how)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.DeployResponse{Changes: changesOf(changes, m.GetDryRun())}), nil
}

// SetWeights replaces a split.
func (s *Server) SetWeights(ctx context.Context, req *connect.Request[operatorv1.SetWeightsRequest]) (*connect.Response[operatorv1.SetWeightsResponse], error) {
	m := req.Msg
	splits := make([]routing.Split, 0, len(m.GetWeights()))
	for _, w := range m.GetWeights() {
		splits = append(splits, routing.Split{Version: w.GetVersion(), BasisPoints: w.GetBasisPoints()})
	}
	change, err := s.Control.SetWeights(ctx, actor(ctx, req.Header(), m.GetAutomation()), m.GetSpec(), splits, how(m.GetReason(), m.GetDryRun(), m.GetNow(), m.GetOverride()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.SetWeightsResponse{Change: changeOf(change, m.GetDryRun())}), nil
}

func how(reason string, dryRun, now bool, o *operatorv1.Override) control.How {
	h := control.How{Reason: reason, DryRun: dryRun, Now: now, Override: o.GetPostmortem(), OverrideReason: o.GetReason()}
	if h.Override != "" && h.OverrideReason == "" {
		h.OverrideReason = reason
	}
	return h
}

// Rollback abandons versions.
func (s *Server) Rollback(ctx context.Context, req *connect.Request[operatorv1.RollbackRequest]) (*connect.Response[operatorv1.RollbackResponse], error) {
	m := req.Msg
	targets := make([]control.RollbackTarget, 0, len(m.GetTargets()))
	for _, t := range m.GetTargets() {
		targets = append(targets, control.RollbackTarget{Spec: t.GetSpec(), To: t.GetTo(), From: t.GetFrom(), Generation: t.GetGeneration()})
	}
	changes, err := s.Control.Rollback(ctx, actor(ctx, req.Header(), false), targets, how(m.GetReason(), m.GetDryRun(), m.GetNow(), nil))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.RollbackResponse{Changes: changesOf(changes, m.GetDryRun())}), nil
}

// Undo takes a rollback back.
func (s *Server) Undo(ctx context.Context, req *connect.Request[operatorv1.UndoRequest]) (*connect.Response[operatorv1.UndoResponse], error) {
	changes, err := s.Control.Undo(ctx, actor(ctx, req.Header(), false), req.Msg.GetPostmortem(), control.How{Reason: req.Msg.GetReason()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.UndoResponse{Changes: changesOf(changes, false)}), nil
}

// SetHeaderTargets leads headers to a version.
func (s *Server) SetHeaderTargets(ctx context.Context, req *connect.Request[operatorv1.SetHeaderTargetsRequest]) (*connect.Response[operatorv1.SetHeaderTargetsResponse], error) {
	m := req.Msg
	change, err := s.Control.Target(ctx, actor(ctx, req.Header(), m.GetAutomation()), versions.Ref{Spec: m.GetSpec(), Version: m.GetVersion()}, headersOf(m.GetHeaders()),
		m.GetLasts().AsDuration(), how(m.GetReason(), m.GetDryRun(), m.GetNow(), nil))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.SetHeaderTargetsResponse{Change: changeOf(change, m.GetDryRun())}), nil
}

// RemoveHeaderTargets ends that.
func (s *Server) RemoveHeaderTargets(ctx context.Context, req *connect.Request[operatorv1.RemoveHeaderTargetsRequest]) (*connect.Response[operatorv1.RemoveHeaderTargetsResponse], error) {
	m := req.Msg
	change, err := s.Control.Untarget(ctx, actor(ctx, req.Header(), m.GetAutomation()), m.GetSpec(), headersOf(m.GetHeaders()), m.GetAll(), how(m.GetReason(), m.GetDryRun(), false, nil))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.RemoveHeaderTargetsResponse{Change: changeOf(change, m.GetDryRun())}), nil
}

func headersOf(headers []*operatorv1.Header) []control.Header {
	out := make([]control.Header, 0, len(headers))
	for _, h := range headers {
		out = append(out, control.Header{Name: strings.ToLower(h.GetName()), Value: h.GetValue()})
	}
	return out
}

// Unfreeze lets automation in again.
func (s *Server) Unfreeze(ctx context.Context, req *connect.Request[operatorv1.UnfreezeRequest]) (*connect.Response[operatorv1.UnfreezeResponse], error) {
	if err := s.Control.Unfreeze(ctx, actor(ctx, req.Header(), false), req.Msg.GetSpec()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.UnfreezeResponse{}), nil
}

// GetEffect tells how far a generation has come.
func (s *Server) GetEffect(ctx context.Context, req *connect.Request[operatorv1.GetEffectRequest]) (*connect.Response[operatorv1.GetEffectResponse], error) {
	waitCtx, cancel := context.WithTimeout(ctx, waitOf(req.Msg.GetWait()))
	defer cancel()
	e, err := s.Control.WaitEffect(waitCtx, req.Msg.GetSpec(), req.Msg.GetGeneration())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(effectOf(e)), nil
}

func waitOf(d *durationpb.Duration) time.Duration { return min(max(d.AsDuration(), 0), maxWait) }

// ClosePostMortem answers a record.
func (s *Server) ClosePostMortem(ctx context.Context, req *connect.Request[operatorv1.ClosePostMortemRequest]) (*connect.Response[operatorv1.ClosePostMortemResponse], error) {
	cause, err := postmortem.ParseCause(req.Msg.GetCause())
	if err != nil {
		return nil, invalid(err.Error())
	}
	record, err := s.Control.ClosePostMortem(ctx, actor(ctx, req.Header(), false), req.Msg.GetId(), cause, req.Msg.GetNote())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.ClosePostMortemResponse{Postmortem: postMortemOf(record)}), nil
}
