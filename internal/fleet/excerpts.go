package fleet

import (
	"cmp"
	"slices"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/store"
)

// keepExcerpts is how many excerpts are kept of a version's first failing executions, and as many of the last: a record shows no more.
const keepExcerpts = 3

// excerpts are those of a batch that the version's manifest allows.
func (s *session) excerpts(batch *sidecarv1.ExecutionBatch) []store.Excerpt {
	if !s.capture.On() {
		return nil
	}
	began := map[string]*sidecarv1.Execution{}
	for _, x := range batch.GetExecutions() {
		began[x.GetId()] = x
	}
	var out []store.Excerpt
	for _, e := range batch.GetExcerpts() {
		if x := began[e.GetExecution()]; x != nil {
			out = append(out, store.Excerpt{
				Spec: s.key.spec, Version: s.key.version, Execution: x.GetId(), StartedAt: x.GetStartedAt().AsTime(),
				Request: partOf(e.GetRequest(), s.capture.Request), Response: partOf(e.GetResponse(), s.capture.Response),
			})
		}
	}
	return out
}

// partOf is a part as its sidecar sent it. One that is larger than the manifest allows was not made by its rules.
func partOf(p *sidecarv1.ExcerptPart, limit int) capture.Part {
	if len(p.GetText()) > limit {
		return capture.Part{Missing: "the sidecar sent more than the manifest allows"}
	}
	return capture.Part{Text: p.GetText(), Cut: p.GetCut(), Missing: p.GetMissing()}
}

// putExcerpts keeps the first and the last of a version's excerpts, told before or now. What was erased stays so.
func putExcerpts(tx *store.Tx, told []store.Excerpt) {
	if len(told) == 0 {
		return
	}
	all := tx.Excerpts(told[0].Spec, told[0].Version)
	stored := map[string]bool{}
	for _, e := range all {
		stored[e.Execution] = true
	}
	for _, e := range told {
		if !slices.ContainsFunc(all, func(o store.Excerpt) bool { return o.Execution == e.Execution }) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b store.Excerpt) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.Execution, b.Execution))
	})
	for i, e := range all {
		switch kept := i < keepExcerpts || i >= len(all)-keepExcerpts; {
		case kept && !stored[e.Execution]:
			tx.PutExcerpt(e)
		case !kept && stored[e.Execution]:
			tx.DeleteExcerpt(e)
		}
	}
}
