package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/specdiff"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

const (
	// gatherEvery is how often open records are looked at.
	gatherEvery = 2 * time.Second
	// gatherSettled is how long after the commit evidence is first gathered: by then sidecars have told what they knew.
	gatherSettled = 5 * time.Second
	// gatherWindow is the time over which it is gathered again, growing by gatherGrowth each time.
	gatherWindow = 10 * time.Minute
	gatherGrowth = 4
	// keptFailing bounds the failing executions in an event, keptSamples those in full, keptDiff the bytes of one file's difference.
	keptFailing = 1000
	keptSamples = 3
	keptDiff    = 8 << 10
	// keptSegments is at how many generations, the newest, counts by declared attributes are kept in an event: each may have 54 of a version, and a
	// canary has at most 12 weights.
	keptSegments = 14
)

// followEvidence gathers evidence for open records: soon after the commit, ever more seldom over the window, and once more at its end.
func (c *Controller) followEvidence(ctx context.Context) error {
	tick := time.NewTicker(gatherEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		for _, record := range c.store.View().OpenPostMortems() {
			for _, r := range record.Rollbacks {
				if final, due := gatherDue(r, time.Now().UTC()); due {
					if err := c.gatherFor(ctx, record.ID, r.Spec, final); err != nil && ctx.Err() == nil {
						c.log.Error("gather evidence", zap.String("postmortem", record.ID), zap.String("spec", r.Spec), zap.Error(err))
					}
				}
			}
		}
	}
}

// gatherDue says whether evidence is to be gathered now, and whether for the last time: when the window is over and nothing drains any more, or
// long after that.
func gatherDue(r postmortem.Rollback, now time.Time) (final, due bool) {
	age := now.Sub(r.CommittedAt)
	if r.Evidence == nil {
		return age >= gatherWindow, age >= gatherSettled
	}
	if r.Evidence.Final {
		return false, false
	}
	settled := !slices.ContainsFunc(r.Abandoned, func(a postmortem.Abandoned) bool { return a.Settled == nil })
	if age >= gatherWindow && settled || age >= gatherGrowth*gatherWindow {
		return true, true
	}
	return false, age >= gatherGrowth*r.Evidence.At.Sub(r.CommittedAt)
}

// gatherFor gathers the evidence of one spec's rollback and appends it, unless somebody was faster.
func (c *Controller) gatherFor(ctx context.Context, id, spec string, final bool) error {
	known := c.learn(ctx, id, spec)
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		record, ok := tx.PostMortem(id)
		r, has := record.Rollback(spec)
		if !ok || !has || !record.Open() {
			return nil
		}
		if stillFinal, due := gatherDue(r, time.Now().UTC()); !due || stillFinal != final {
			return nil
		}
		c.appendEvidence(tx, record, r, known, final)
		return nil
	})
	return err
}

// learned is what comes from the archive: it is read before a transaction, so that a slow archive holds nobody up.
type learned struct {
	changes []postmortem.Changed
	reports []postmortem.Report
	missing []postmortem.Source
}

func (c *Controller) learn(ctx context.Context, id, spec string) learned {
	ctx, cancel := context.WithTimeout(ctx, gatherTimeout)
	defer cancel()
	out := learned{changes: []postmortem.Changed{}, reports: []postmortem.Report{}}
	record, _ := c.store.View().PostMortem(id)
	r, ok := record.Rollback(spec)
	if !ok {
		return out
	}
	diffs := postmortem.Source{Item: "what changed", From: "the archive, every byte verified"}
	tests := postmortem.Source{Item: "conformance reports", From: "the archive, as attached to the versions"}
	target, err := c.archive.Get(ctx, r.Digest)
	if err != nil {
		diffs.Missing = fmt.Sprintf("%s cannot be read: %v", r.Target, err)
	}
	words := map[string]bool{}
	for _, a := range r.Abandoned {
		bad, err := c.archive.Get(ctx, a.Digest)
		if err != nil {
			diffs.Missing = fmt.Sprintf("%s cannot be read: %v", a.Version, err)
		}
		if diffs.Missing == "" {
			d := specdiff.Compare(target, bad)
			out.changes = append(out.changes, changedOf(a.Version, d))
			for _, w := range changedWords(d) {
				words[w] = true
			}
		}
	}
	for _, v := range append([]postmortem.Abandoned{{Version: r.Target, Digest: r.Digest}}, r.Abandoned...) {
		attached, err := c.archive.Attachments(ctx, v.Digest, "")
		if err != nil {
			tests.Missing = fmt.Sprintf("what is attached to %s cannot be read: %v", v.Version, err)
			continue
		}
		none := true
		for _, at := range attached {
			if at.Type == versions.TypeConformance {
				none = false
				out.reports = append(out.reports, reportOf(v.Version, at, words))
			}
		}
		if none {
			tests.Missing = strings.TrimPrefix(tests.Missing+"; no report is attached to "+v.Version, "; ")
		}
	}
	out.missing = []postmortem.Source{diffs, tests}
	return out
}

func changedOf(version string, d specdiff.Diff) postmortem.Changed {
	out := postmortem.Changed{Version: version, Words: []string{}, Files: []postmortem.File{}}
	for _, p := range d.Summary {
		out.Words = append(out.Words, p.Text)
	}
	for _, doc := range d.Documents {
		unified := doc.Unified
		if len(unified) > keptDiff {
			unified = strings.ToValidUTF8(unified[:keptDiff], "") + "\n… shortened\n"
		}
		out.Files = append(out.Files, postmortem.File{Path: doc.Path, Status: string(doc.Status), Added: doc.Added, Removed: doc.Removed, Unified: unified})
	}
	return out
}

// changedWords are the words of the lines that differ, in lower case, but the shortest.
func changedWords(d specdiff.Diff) []string {
	var out []string
	for _, doc := range d.Documents {
		if doc.Path == "spec.yaml" {
			continue // its words are those of every version
		}
		for line := range strings.SplitSeq(doc.Unified, "\n") {
			if strings.HasPrefix(line, "+") || strings.HasPrefix(line, "-") {
				out = append(out, postmortem.Words(strings.TrimLeft(line, "+-"))...)
			}
		}
	}
	return out
}

func reportOf(version string, at versions.Attachment, words map[string]bool) postmortem.Report {
	out := postmortem.Report{Version: version, Suite: at.Title, At: at.At, By: at.By, Touching: []string{}}
	report, err := Report(at)
	if err != nil {
		out.Suite += " (cannot be read)"
		return out
	}
	out.Suite, out.Tests, out.Failed, out.Skipped = report.Suite, report.Tests, report.Failures, report.Skipped
	out.Touching = postmortem.Touching(report.Cases, words)
	return out
}

// appendEvidence puts together what the store, the sidecars and the archive know, and appends it to the record.
func (c *Controller) appendEvidence(tx *store.Tx, record postmortem.Record, r postmortem.Rollback, known learned, final bool) {
	now := time.Now().UTC()
	e := postmortem.Evidence{Final: final, Changes: known.changes, Reports: known.reports, Reasons: []postmortem.Reason{}, First: []postmortem.Sample{}, Last: []postmortem.Sample{}}
	seen := append([]string{r.Target}, versionsOf(r.Abandoned)...)
	view := c.store.View()
	for _, v := range seen {
		e.Totals = append(e.Totals, outcomeOf(v, c.fleet.Pool(view, r.Spec, v)))
		e.Series = append(e.Series, postmortem.Series{Version: v, Points: c.fleet.Trace(r.Spec, v)})
	}
	e.Steps = c.exposures(tx, r, e.Totals, now)
	c.failing(tx, record.ID, r, &e, seen)
	e.Proxies = c.acks(r)
	e.Sources = c.sources(r, e, known)
	tx.AppendPostMortem(record.ID, now, postmortem.System, postmortem.Gathered{Spec: r.Spec, Evidence: e})
}

func (c *Controller) exposures(tx *store.Tx, r postmortem.Rollback, totals []postmortem.Outcome, now time.Time) []postmortem.Exposed {
	steps := []postmortem.Exposed{}
	for i, s := range r.Timeline {
		held := slices.ContainsFunc(s.Splits, func(x routing.Split) bool {
			return x.BasisPoints > 0 && slices.ContainsFunc(r.Abandoned, func(a postmortem.Abandoned) bool { return a.Version == x.Version })
		})
		if !held && s.Generation != r.Generation {
			continue
		}
		step := postmortem.Exposed{Step: s, Until: now, Begin: []postmortem.Outcome{}, End: totals}
		if at, ok := tx.Exposure(r.Spec, s.Generation); ok {
			step.Begin = at.Outcomes
		}
		if i+1 < len(r.Timeline) {
			step.Until, step.End = r.Timeline[i+1].At, []postmortem.Outcome{}
			if at, ok := tx.Exposure(r.Spec, s.Generation+1); ok {
				step.End = at.Outcomes
			}
		}
		steps = append(steps, step)
	}
	for i := range steps[:max(0, len(steps)-keptSegments)] {
		steps[i].Begin, steps[i].End = withoutSegments(steps[i].Begin), withoutSegments(steps[i].End)
	}
	return steps
}

func withoutSegments(all []postmortem.Outcome) []postmortem.Outcome {
	all = slices.Clone(all)
	for i := range all {
		all[i].Segments = nil
	}
	return all
}

// failing takes the failing executions of all versions; those of the abandoned ones also by reason and in full. What may be personal goes beside
// the chain.
func (c *Controller) failing(tx *store.Tx, id string, r postmortem.Rollback, e *postmortem.Evidence, seen []string) {
	kept := sealer{tx: tx, record: id}
	e.Failing = []postmortem.Failing{}
	var since time.Time
	if len(e.Steps) > 0 {
		since = e.Steps[0].At
	}
	type reason struct{ version, text string }
	reasons := map[reason]int{}
	var abandoned []store.Failure
	captured := map[string]store.Excerpt{}
	for _, v := range seen {
		for _, x := range tx.Excerpts(r.Spec, v) {
			captured[x.Execution] = x
		}
		for _, x := range Failed(tx.Failures(r.Spec, v)) {
			if x.Outcome != "failure" || x.StartedAt.Before(since) {
				continue
			}
			reasons[reason{v, x.Reason}]++
			e.Failing = append(e.Failing, kept.failing(x))
			if v != r.Target {
				abandoned = append(abandoned, x)
			}
		}
	}
	slices.SortStableFunc(e.Failing, func(a, b postmortem.Failing) int { return a.When().Compare(b.When()) })
	e.Failing = e.Failing[:min(len(e.Failing), keptFailing)]
	for k, n := range reasons {
		e.Reasons = append(e.Reasons, postmortem.Reason{Version: k.version, Reason: k.text, Count: n})
	}
	slices.SortFunc(e.Reasons, func(a, b postmortem.Reason) int {
		return cmp.Or(strings.Compare(a.Version, b.Version), b.Count-a.Count, strings.Compare(a.Reason, b.Reason))
	})
	for i, x := range abandoned {
		if i >= keptSamples && i < len(abandoned)-keptSamples {
			continue
		}
		s := postmortem.Sample{Failing: kept.failing(x), Reason: x.Reason, Status: x.Status, Effects: string(x.Effects), Skill: x.Skill, Why: x.Why}
		if e, ok := captured[x.ID]; ok {
			s.Excerpt = &postmortem.Excerpt{Request: kept.part(e.Request), Response: kept.part(e.Response)}
		}
		if i < keptSamples {
			e.First = append(e.First, s)
		}
		if i >= max(keptSamples, len(abandoned)-keptSamples) {
			e.Last = append(e.Last, s)
		}
	}
}

// sealer keeps personal data beside the chain.
type sealer struct {
	tx     *store.Tx
	record string
	salt   []byte
	seen   map[string]string
}

func (s *sealer) failing(x store.Failure) postmortem.Failing {
	return postmortem.Failing{
		ID: x.ID, Version: x.Version, Started: x.StartedAt, Ended: x.EndedAt, Generation: x.RouteGeneration, Key: s.seal(x.Key, false), Method: x.Method, Path: x.Path,
	}
}

func (s *sealer) part(p capture.Part) postmortem.Part {
	return postmortem.Part{Digest: s.seal(p.Text, true), Cut: p.Cut, Missing: p.Missing}
}

// seal stores a text once and returns its digest. One salt serves a whole record, so that the same key is seen to be the same.
func (s *sealer) seal(text string, excerpt bool) string {
	if text == "" {
		return ""
	}
	if s.seen == nil {
		s.seen = map[string]string{}
		for _, old := range s.tx.Personal(s.record) {
			s.salt, s.seen[old.Text] = old.Salt, old.Digest
		}
	}
	if digest, ok := s.seen[text]; ok {
		return digest
	}
	if len(s.salt) == 0 {
		s.salt = make([]byte, 16)
		rand.Read(s.salt) // never fails, by its documentation
	}
	sum := sha256.Sum256(append(slices.Clone(s.salt), text...))
	digest := hex.EncodeToString(sum[:])
	s.seen[text] = digest
	if excerpt || len(s.seen) <= keptFailing { // a transaction has its bounds
		s.tx.PutPersonal(store.Personal{Record: s.record, Digest: digest, Salt: s.salt, Text: text, Excerpt: excerpt})
	}
	return digest
}

// acks are the proxies that serve the spec, and when each acknowledged.
func (c *Controller) acks(r postmortem.Rollback) []postmortem.ProxyAck {
	out := []postmortem.ProxyAck{}
	for _, p := range c.discovery.Proxies() {
		for _, s := range p.Specs {
			if s.Spec != r.Spec {
				continue
			}
			ack := postmortem.ProxyAck{Node: p.Node, Generation: s.Generation}
			if s.Generation >= r.Generation {
				ack.At = s.AckedAt
			}
			out = append(out, ack)
		}
	}
	return out
}

// sources says of each item where it came from, and what of it is missing.
func (c *Controller) sources(r postmortem.Rollback, e postmortem.Evidence, known learned) []postmortem.Source {
	counts := postmortem.Source{Item: "counts and rates", From: "the sidecars' own counters, sampled here each second and at each change of the weights"}
	if first := r.Timeline[0].At; c.fleet.Listening().After(first) {
		counts.Missing = "what this replica was not told before " + c.fleet.Listening().UTC().Format(time.RFC3339)
	}
	for _, s := range e.Steps {
		if len(s.Begin) == 0 || len(s.End) == 0 {
			counts.Missing = strings.TrimPrefix(counts.Missing+fmt.Sprintf("; the counts at generation %d", s.Generation), "; ")
		}
	}
	failing := postmortem.Source{Item: "failing executions", From: "the sidecars' records of executions whose agents said that they failed"}
	var failed uint64
	for _, t := range e.Totals {
		failed += t.Failed
	}
	if n := len(e.Failing); n == keptFailing {
		failing.Missing = fmt.Sprintf("those after the first %d", keptFailing)
	} else if uint64(n) < failed {
		failing.Missing = fmt.Sprintf("%d of %d were counted and are not among the records: they failed before the first step, or are not told yet", failed-uint64(n), failed)
	}
	proxies := postmortem.Source{Item: "proxies' acknowledgements", From: "the xDS streams to this replica"}
	if len(e.Proxies) == 0 {
		proxies.Missing = "no proxy serves the spec"
	}
	out := []postmortem.Source{
		{Item: "weights", From: "the history of the route"}, counts, failing,
		c.segmentsSource(r, len(e.Steps)),
		c.excerptsSource(r, e),
		{Item: "alerts", From: "the API (specctl postmortem alert)"},
		proxies,
	}
	return append(out, known.missing...)
}

// excerptsSource says which of the abandoned versions' sidecars capture, and what of the executions that are shown was not.
func (c *Controller) excerptsSource(r postmortem.Rollback, e postmortem.Evidence) postmortem.Source {
	out := postmortem.Source{Item: "excerpts", From: "the sidecars, redacted there as the manifests' capture sections say"}
	view := c.store.View()
	var off []string
	for _, a := range r.Abandoned {
		if record, _ := view.Version(r.Spec, a.Version); !record.Manifest.Capture.On() {
			off = append(off, a.Version)
		}
	}
	if len(off) == len(r.Abandoned) {
		out.From = "nowhere"
	}
	if len(off) > 0 {
		out.Missing = "capture is off: spec.yaml of " + strings.Join(off, ", ") + " does not declare it"
	}
	if slices.ContainsFunc(slices.Concat(e.First, e.Last), func(s postmortem.Sample) bool { return s.Excerpt == nil && !slices.Contains(off, s.Version) }) {
		out.Missing = strings.TrimPrefix(out.Missing+"; of some of the executions that are shown none is kept", "; ")
	}
	return out
}

// segmentsSource says by which attributes the versions' sidecars count.
func (c *Controller) segmentsSource(r postmortem.Rollback, steps int) postmortem.Source {
	out := postmortem.Source{Item: "segments", From: "method and path of the failing executions"}
	view := c.store.View()
	var silent []string
	for _, version := range append([]string{r.Target}, versionsOf(r.Abandoned)...) {
		if record, _ := view.Version(r.Spec, version); len(record.Manifest.Segments) == 0 {
			silent = append(silent, version)
		}
	}
	if len(silent) <= len(r.Abandoned) {
		out.From = "the sidecars' own counters, by the attributes that the manifests declare; " + out.From
	}
	if len(silent) > 0 {
		out.Missing = "no segments are declared in spec.yaml of " + strings.Join(silent, ", ")
	}
	if steps > keptSegments {
		out.Missing = strings.TrimPrefix(fmt.Sprintf("%s; those of all but its newest %d generations", out.Missing, keptSegments), "; ")
	}
	return out
}

func versionsOf(abandoned []postmortem.Abandoned) []string {
	out := make([]string, 0, len(abandoned))
	for _, a := range abandoned {
		out = append(out, a.Version)
	}
	return out
}

func outcomeOf(version string, p fleet.Pool) postmortem.Outcome {
	return postmortem.Outcome{Version: version, Started: p.Started, Succeeded: p.Succeeded, Failed: p.Failed, Unknown: p.Unknown, InFlight: p.InFlight, Segments: p.Segments}
}
