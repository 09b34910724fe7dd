package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/gen/specproxy/operator/v1/operatorv1connect"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/postmortem"
)

// PostMortems is the service of the records, at its path.
func (s *Server) PostMortems() (string, http.Handler) {
	return operatorv1connect.NewPostMortemServiceHandler(s, connect.WithReadMaxBytes(maxText), calls)
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
	record, err := s.Control.Answer(ctx, actor(ctx, req.Header(), false), req.Msg.GetId(), answers)
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
	m, who := req.Msg, actor(ctx, req.Header(), false)
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
	record, err := s.Control.Approve(ctx, actor(ctx, req.Header(), false), req.Msg.GetId(), req.Msg.GetNote())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.ApproveResponse{Postmortem: s.recordOfNow(record)}), nil
}

// Reopen takes a closing back.
func (s *Server) Reopen(ctx context.Context, req *connect.Request[operatorv1.ReopenRequest]) (*connect.Response[operatorv1.ReopenResponse], error) {
	record, err := s.Control.Reopen(ctx, actor(ctx, req.Header(), false), req.Msg.GetId(), req.Msg.GetReason())
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
	record, err := s.recordIn(view, req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	if req.Msg.GetWithoutPersonal() {
		record = record.WithTexts(nil)
	}
	files, err := postmortem.Export(record, s.Figures(record), view.Chain(0, 0))
	if err != nil {
		return nil, err
	}
	out := &operatorv1.ExportResponse{Id: record.ID, Head: headOf(view.ChainHead())}
	if kept := view.Personal(record.ID); len(kept) > 0 && !req.Msg.GetWithoutPersonal() {
		keys := []map[string]any{}
		for _, p := range kept {
			keys = append(keys, map[string]any{"digest": p.Digest, "salt": p.Salt, "text": p.Text})
		}
		raw, err := json.MarshalIndent(keys, "", "  ")
		if err != nil {
			return nil, err
		}
		out.Files = append(out.Files, &operatorv1.File{Path: record.ID + ".personal.json", Content: append(raw, '\n')})
	}
	for _, f := range files {
		out.Files = append(out.Files, &operatorv1.File{Path: f.Name, Content: f.Data})
	}
	return connect.NewResponse(out), nil
}

func headOf(h postmortem.Head) *operatorv1.ChainHead {
	return &operatorv1.ChainHead{Seq: h.Seq, Link: h.Link}
}

// Alert takes an alert.
func (s *Server) Alert(ctx context.Context, req *connect.Request[operatorv1.AlertRequest]) (*connect.Response[operatorv1.AlertResponse], error) {
	m := req.Msg
	ids, err := s.Control.Alert(ctx, postmortem.Alert{Source: m.GetSource(), Name: m.GetName(), Summary: m.GetSummary(), Spec: m.GetSpec(), Version: m.GetVersion()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.AlertResponse{Postmortems: ids}), nil
}

// Erase erases personal data of a record.
func (s *Server) Erase(ctx context.Context, req *connect.Request[operatorv1.EraseRequest]) (*connect.Response[operatorv1.EraseResponse], error) {
	done, err := s.Control.Erase(ctx, actor(ctx, req.Header(), false), req.Msg.GetId(), req.Msg.GetDigests(), req.Msg.GetReason())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.EraseResponse{Erased: uint32(done.Keys), Excerpts: uint32(done.Excerpts), Kept: done.Kept}), nil //nolint:gosec // counts of records
}

// HandOver gives what is open of a spec to somebody.
func (s *Server) HandOver(ctx context.Context, req *connect.Request[operatorv1.HandOverRequest]) (*connect.Response[operatorv1.HandOverResponse], error) {
	m := req.Msg
	h := control.HandOver{Spec: m.GetSpec(), To: m.GetTo(), Note: m.GetNote(), DryRun: m.GetDryRun()}
	if m.GetDue() != nil {
		h.Due = m.GetDue().AsTime()
	}
	over, err := s.Control.HandOver(ctx, actor(ctx, req.Header(), false), h)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.HandOverResponse{Locked: over.Locked, Left: over.Left, Wake: over.Wake, Postmortems: over.PostMortems}), nil
}

// statsOver is how far back stats go unless told otherwise.
const statsOver = 90 * 24 * time.Hour

// GetStats says how well deploys have gone.
func (s *Server) GetStats(_ context.Context, req *connect.Request[operatorv1.GetStatsRequest]) (*connect.Response[operatorv1.GetStatsResponse], error) {
	view, now := s.Store.View(), time.Now()
	over := statsOver
	if req.Msg.GetSince() != nil {
		over = req.Msg.GetSince().AsDuration()
	}
	specs := view.Specs()
	if want := req.Msg.GetSpec(); want != "" {
		if err := exists(view, want); err != nil {
			return nil, err
		}
		specs = []string{want}
	}
	records := view.PostMortems()
	all := postmortem.Stats{Since: now.Add(-over)}
	out := &operatorv1.GetStatsResponse{}
	for _, spec := range specs {
		one := postmortem.Count(spec, view.History(spec), records, now.Add(-over))
		if one.First.IsZero() {
			continue // never deployed
		}
		all = all.Plus(one)
		out.Specs = append(out.Specs, statsOf(one, now))
	}
	out.Overall = statsOf(all, now)
	return connect.NewResponse(out), nil
}

func statsOf(s postmortem.Stats, now time.Time) *operatorv1.Stats {
	n := func(i int) uint32 { return uint32(i) } //nolint:gosec // counts of records
	out := &operatorv1.Stats{
		Spec: s.Spec, Deploys: n(s.Deploys), Rollbacks: n(s.Rollbacks), FailedDeploys: n(s.Failed), Open: n(s.Open), Overrides: n(s.Overrides),
		FalseAlarms: n(s.FalseAlarms), CanaryCatches: n(s.CanaryCatches), ProductionCatches: n(s.ProductionCatches), Warnings: s.Warnings(now), Causes: map[string]uint32{},
	}
	for cause, count := range s.Causes {
		out.Causes[string(cause)] = n(count)
	}
	median := func(all []time.Duration) *durationpb.Duration {
		if m, ok := postmortem.Median(all); ok {
			return durationpb.New(m)
		}
		return nil
	}
	out.TimeToDetect, out.TimeToRestore, out.TimeToClose = median(s.Detect), median(s.Restore), median(s.Close)
	return out
}
