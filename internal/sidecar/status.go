package sidecar

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
)

// health is what readiness depends on, beside the posture.
type health struct {
	mismatch string // why what runs is not what the manifest demands; set before serve

	mu      sync.Mutex
	answers bool
	// silence is why the agent does not answer.
	silence error
	leaving bool
	settled bool // what ran has been decided over by onShutdown
}

// set changes health and has the status sent.
func (s *sidecar) set(change func(*health)) {
	s.health.mu.Lock()
	change(&s.health)
	s.health.mu.Unlock()
	s.beginIfReady()
	s.group.StatusChanged()
}

// openWithin is how long requests are held that come before a starting sidecar can serve them. Proxies that knew an earlier process at its
// address send them at once.
const openWithin = 5 * time.Second

// beginIfReady lets requests in once a State is in force and the agent has answered.
func (s *sidecar) beginIfReady() {
	s.health.mu.Lock()
	answers := s.health.answers
	s.health.mu.Unlock()
	if answers && s.keeper.Current() != nil {
		s.letIn()
	}
}

// status is what the control plane is told.
func (s *sidecar) status() *sidecarv1.Status {
	s.health.mu.Lock()
	answers, silence, leaving, settled := s.health.answers, s.health.silence, s.health.leaving, s.health.settled
	s.health.mu.Unlock()
	// In this order: what is applied is in the ledger, and what is fenced admits nothing more, so a status never claims more than it shows.
	st := &sidecarv1.Status{Leaving: leaving, Settled: settled, AppliedGeneration: s.keeper.Applied()}
	_, st.Fenced = s.ledger.Fenced()
	st.OrderedGeneration, st.Overrides = s.ledger.Ordered(), s.overrides.status()
	if id, at := s.ledger.LastAdmission(); id != "" {
		st.LastAdmissionId, st.LastAdmissionAt = id, timestamppb.New(at)
	}
	switch {
	case s.keeper.Current() == nil:
		st.Reason = "no state from the control plane yet"
	case s.health.mismatch != "":
		st.Reason = s.health.mismatch
	case s.trust.reason() != "":
		st.Reason = s.trust.reason()
	case !answers && silence != nil:
		st.Reason = fmt.Sprintf("the agent does not answer on %s: %v", s.endpoint, silence)
	case !answers:
		st.Reason = fmt.Sprintf("the agent does not answer on %s yet", s.endpoint)
	default:
		st.Ready = true
	}
	return st
}

// ready is nil while the instance takes work, else why it does not.
func (s *sidecar) ready() error {
	switch st := s.status(); {
	case st.GetLeaving():
		return errors.New("the sidecar is leaving")
	case st.GetFenced():
		return errors.New("the version is abandoned: new work is passed on")
	case !st.GetReady():
		return errors.New(st.GetReason())
	}
	return nil
}

// totals are the ledger's and the data path's counts.
func (s *sidecar) totals() *sidecarv1.Totals {
	t := s.ledger.Totals()
	var routed []*sidecarv1.Routed
	for _, r := range s.ledger.Routed() {
		routed = append(routed, &sidecarv1.Routed{
			Generation: r.Generation, Started: r.Started, Succeeded: r.Succeeded, Failed: r.Failed, Unknown: r.Unknown, Plain: r.Plain, Cut: r.Cut, Keyed: r.Keyed, Slow: r.Slow,
		})
	}
	var segments []*sidecarv1.Segment
	for _, x := range s.ledger.Segments() {
		segments = append(segments, &sidecarv1.Segment{Attribute: x.Attribute, Value: x.Value, Started: x.Started, Failed: x.Failed, Unknown: x.Unknown})
	}
	var shadow *sidecarv1.Shadow
	if s.shadows != nil {
		t := s.shadows.Totals()
		shadow = &sidecarv1.Shadow{Started: t.Started, Succeeded: t.Succeeded, Failed: t.Failed, Unknown: t.Unknown, InFlight: t.InFlight, Acted: s.proxy.Acted()}
	}
	return &sidecarv1.Totals{
		Started: t.Started, Succeeded: t.Succeeded, Failed: t.Failed, Unknown: t.Unknown, InFlight: t.InFlight,
		Completed: t.Completed, HandedOver: t.HandedOver, Cancelled: t.Cancelled, Held: t.Held, Arrived: t.Arrived, PassedOn: s.proxy.PassedOn(),
		Durations: s.ledger.Durations(), Settling: s.ledger.Settling(), Routed: routed, ArrivedFrom: s.ledger.ArrivedFrom(), Segments: segments,
		Shadow: shadow,
	}
}
