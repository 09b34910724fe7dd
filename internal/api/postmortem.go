package api

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/gen/specproxy/operator/v1/operatorv1connect"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/postmortem"
)

// PostMortems is the service of the records, at its path.
func (s *Server) PostMortems() (string, http.Handler) {
	return operatorv1connect.NewPostMortemServiceHandler(s, connect.WithReadMaxBytes(maxText), connect.WithInterceptors(connect.UnaryInterceptorFunc(explain)))
}

// maxText bounds a request that carries only what people write.
const maxText = 1 << 20

// Answer answers questions of a record.
func (s *Server) Answer(ctx context.Context, req *connect.Request[operatorv1.AnswerRequest]) (*connect.Response[operatorv1.AnswerResponse], error) {
	var answers []postmortem.Answered
	for _, a := range req.Msg.GetAnswers() {
		q, err := postmortem.ParseQuestion(a.GetQuestion())
		if err != nil {
			return nil, invalid(err.Error())
		}
		answers = append(answers, postmortem.Answered{Question: q, Text: a.GetText()})
	}
	record, err := s.Control.Answer(ctx, actor(req.Header(), false), req.Msg.GetId(), answers)
	if err != nil {
		return nil, err
	}
	out := &operatorv1.AnswerResponse{Postmortem: s.recordOfNow(record)}
	for _, q := range record.Unanswered(postmortem.SpecError) {
		out.Unanswered = append(out.Unanswered, string(q))
	}
	return connect.NewResponse(out), nil
}

// recordOfNow is the record as it reads now.
func (s *Server) recordOfNow(record postmortem.Record) *operatorv1.PostMortem {
	view := s.Store.View()
	return postMortemOf(control.WithActs(view, s.Fleet, control.Counted(view, record)))
}

// Assign gives a record its owner, or adds or ends an action item.
func (s *Server) Assign(ctx context.Context, req *connect.Request[operatorv1.AssignRequest]) (*connect.Response[operatorv1.AssignResponse], error) {
	m, who := req.Msg, actor(req.Header(), false)
	out := &operatorv1.AssignResponse{}
	var due time.Time
	if m.GetDue() != nil {
		due = m.GetDue().AsTime()
	}
	var record postmortem.Record
	var err error
	switch {
	case m.GetDone() != "":
		out.Action = m.GetDone()
		record, err = s.Control.EndAction(ctx, who, m.GetId(), m.GetDone())
	case m.GetWhat() != "":
		record, out.Action, err = s.Control.AddAction(ctx, who, m.GetId(), postmortem.Action{What: m.GetWhat(), Owner: m.GetOwner(), Due: due})
	default:
		record, err = s.Control.AssignRecord(ctx, who, m.GetId(), postmortem.Assigned{Owner: m.GetOwner(), Due: due, Note: m.GetNote()})
	}
	if err != nil {
		return nil, err
	}
	out.Postmortem = s.recordOfNow(record)
	return connect.NewResponse(out), nil
}

// Approve is a second person's agreement.
func (s *Server) Approve(ctx context.Context, req *connect.Request[operatorv1.ApproveRequest]) (*connect.Response[operatorv1.ApproveResponse], error) {
	record, err := s.Control.Approve(ctx, actor(req.Header(), false), req.Msg.GetId(), req.Msg.GetNote())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.ApproveResponse{Postmortem: s.recordOfNow(record)}), nil
}

// Reopen takes a closing back.
func (s *Server) Reopen(ctx context.Context, req *connect.Request[operatorv1.ReopenRequest]) (*connect.Response[operatorv1.ReopenResponse], error) {
	record, err := s.Control.Reopen(ctx, actor(req.Header(), false), req.Msg.GetId(), req.Msg.GetReason())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.ReopenResponse{Postmortem: s.recordOfNow(record)}), nil
}

// Verify follows the whole chain and compares every record with what its events say.
func (s *Server) Verify(_ context.Context, req *connect.Request[operatorv1.VerifyRequest]) (*connect.Response[operatorv1.VerifyResponse], error) {
	w := req.Msg.GetWitness()
	checked := control.VerifyChain(s.Store.View(), postmortem.Head{Seq: w.GetSeq(), Link: w.GetLink()})
	out := &operatorv1.VerifyResponse{Head: headOf(checked.Head), Records: uint32(checked.Records)}
	if checked.Err != nil {
		out.Damage = checked.Err.Error()
	}
	return connect.NewResponse(out), nil
}

// Export returns everything of one record.
func (s *Server) Export(_ context.Context, req *connect.Request[operatorv1.ExportRequest]) (*connect.Response[operatorv1.ExportResponse], error) {
	view := s.Store.View()
	record, ok := view.PostMortem(req.Msg.GetId())
	if !ok {
		return nil, &control.NotFound{Refused: control.Refused{Why: "post-mortem " + req.Msg.GetId() + " does not exist", Next: "specctl postmortem list"}}
	}
	files, err := postmortem.Export(control.WithActs(view, s.Fleet, control.Counted(view, record)), view.Chain(0, 0))
	if err != nil {
		return nil, err
	}
	out := &operatorv1.ExportResponse{Id: record.ID, Head: headOf(view.ChainHead())}
	for _, f := range files {
		out.Files = append(out.Files, &operatorv1.File{Path: f.Name, Content: f.Data})
	}
	return connect.NewResponse(out), nil
}

func headOf(h postmortem.Head) *operatorv1.ChainHead {
	return &operatorv1.ChainHead{Seq: h.Seq, Link: h.Link}
}
