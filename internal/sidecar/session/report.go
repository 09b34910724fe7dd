package session

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/drain"
)

// report is a row as it travels.
func report(r drain.Row) *sidecarv1.Execution {
	x := &sidecarv1.Execution{
		Id: r.ID, Key: r.Key, Method: r.Method, Path: r.Path, StartedAt: stamp(r.StartedAt), EndedAt: stamp(r.EndedAt),
		RouteGeneration: r.RouteGeneration, Effects: string(r.Effects), EffectsSource: string(r.EffectsSource),
		Responded: r.Responded, Replayable: r.Replayable, Outcome: string(r.Outcome), OutcomeReason: r.OutcomeReason,
		Status: int32(r.Status), Disposition: string(r.Disposition), Why: r.Why, //nolint:gosec // an HTTP status has three digits
		HandedOverFrom: r.HandedOverFrom, Deadline: stamp(r.Deadline), Grpc: r.GRPC, Tools: r.Tools, Skill: r.Skill, Headers: r.Headers,
		ActsOmitted: r.ActsOmitted, SettleBy: stamp(r.SettleBy), Holds: r.Holds, Conversation: r.Conversation, Slow: r.Slow,
	}
	for _, a := range r.Acts {
		x.Acts = append(x.Acts, &sidecarv1.Effect{Tool: a.Tool, Class: string(a.Class), Key: a.Key, Compensation: a.Compensation, At: stamp(a.At), Source: string(a.Source)})
	}
	return x
}

// excerpts are what was captured of those that failed.
func (g *Group) excerpts(taken []*sidecarv1.Execution) []*sidecarv1.Excerpt {
	var out []*sidecarv1.Excerpt
	for _, x := range taken {
		if drain.Outcome(x.GetOutcome()) != drain.Failure {
			continue
		}
		if e, ok := g.Excerpt(x.GetId()); ok {
			out = append(out, &sidecarv1.Excerpt{Execution: x.GetId(), Request: part(e.Request), Response: part(e.Response)})
		}
	}
	return out
}

func part(p capture.Part) *sidecarv1.ExcerptPart {
	return &sidecarv1.ExcerptPart{Text: p.Text, Cut: p.Cut, Missing: p.Missing}
}

// stamp leaves the zero time unset.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
