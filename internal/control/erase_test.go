package control_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/capture"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
)

// TestExcerptsAreErasedAndTheChainStaysWhole erases one text by its digest, then all.
func TestExcerptsAreErasedAndTheChainStaysWhole(t *testing.T) {
	ctx := t.Context()
	s, err := store.Open(ctx, store.Options{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	arch, err := archive.Open(t.TempDir(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	disc := discovery.New(discovery.Options{Store: s, Log: zap.NewNop()})
	fl := fleet.New(fleet.Options{Store: s, Archive: arch, Proxies: disc, Log: zap.NewNop()})
	c := control.New(control.Options{Store: s, Archive: arch, Fleet: fl, Discovery: disc, Log: zap.NewNop(), Alone: true})
	ada, now := control.Actor{Name: "ada"}, control.How{Now: true, Reason: "test"}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []string{"2.0.0", "2.1.0"} {
		manifest := "name: shop\nversion: " + v + "\ncapture: {request: 100, response: 100}\ninFlight:\n  default: {onRollback: complete, within: 1m, then: cancel}\n"
		_, err := c.Publish(ctx, ada, map[string][]byte{"spec.yaml": []byte(manifest)}, "")
		must(err)
		must(deploy(ctx, c, ada, v, now))
	}
	var failures []store.Failure
	_, err = s.Update(ctx, func(tx *store.Tx) error {
		failures = nil
		for i := range 8 {
			x := store.Failure{ID: fmt.Sprint("x", i), Key: fmt.Sprint("key ", i), Version: "2.1.0", StartedAt: time.Now().UTC(), EndedAt: time.Now().UTC(), Outcome: "failure", Reason: "no"}
			failures = append(failures, x)
			tx.PutExcerpt(store.Excerpt{
				Spec: "shop", Version: "2.1.0", Execution: x.ID, StartedAt: x.StartedAt, Request: capture.Part{Text: fmt.Sprint("asked ", i)}, Response: capture.Part{Text: "said no to it"},
			})
		}
		tx.PutFailures(store.FailureBatch{Spec: "shop", Version: "2.1.0", Instance: "i", Seq: 1, Executions: failures})
		// The first came again, and was let complete; so did one that never failed.
		again := []store.Failure{{ID: "x8", Key: "key 0", Version: "2.1.0"}, {ID: "x9", Key: "key 9", Version: "2.1.0"}}
		tx.PutSettled(store.FailureBatch{Spec: "shop", Version: "2.1.0", Instance: "i", Seq: 1, Executions: again})
		return nil
	})
	must(err)
	_, err = c.Rollback(ctx, ada, []control.RollbackTarget{{Spec: "shop"}}, now)
	must(err)
	var answers []postmortem.Answered
	for _, q := range postmortem.Questions() {
		answers = append(answers, postmortem.Answered{Question: q, Text: "answer"})
	}
	_, err = c.Answer(ctx, ada, "PM-1", answers)
	must(err)
	_, err = c.ClosePostMortem(ctx, ada, "PM-1", postmortem.SpecError, "it was the spec") // which gathers
	must(err)
	head := s.View().ChainHead()
	record, _ := s.View().PostMortem("PM-1")
	e := record.Rollbacks[0].Evidence
	if len(e.First) != 3 || len(e.Last) != 3 || e.First[0].Excerpt == nil || e.Last[2].Excerpt == nil {
		t.Fatalf("gathered %+v and %+v", e.First, e.Last)
	}
	left := func() (all string) {
		for _, p := range s.View().Personal("PM-1") {
			all += p.Text + "\n"
		}
		for _, x := range s.View().Excerpts("shop", "2.1.0") {
			all += x.Request.Text + "\n" + x.Response.Text + "\n"
		}
		for _, b := range slices.Concat(s.View().Failures("shop", "2.1.0"), s.View().Settled("shop", "2.1.0")) {
			for _, x := range b.Executions {
				all += x.ID + " " + x.Key + "\n"
			}
		}
		for _, entry := range s.View().Chain(0, 0) {
			all += string(entry.Event) + "\n"
		}
		return all
	}
	if strings.Count(left(), "asked 0") != 2 || strings.Count(left(), "asked 4") != 1 {
		t.Fatalf("before there is:\n%s", left())
	}
	one := e.First[0].Excerpt.Request.Digest
	const chain = "the digests, and ids, paths and reasons of executions: they are in the chain, by which PM-1 is verified"
	const others = "keys of executions that PM-1 does not name, because they did not fail or failed before its first step: 1; they are done again and undone by them"
	for _, step := range []struct {
		digests        []string
		keys, excerpts int
		gone, there    string
		kept           []string
	}{
		{[]string{one}, 0, 1, "asked 0", "asked 1", []string{"keys and texts of PM-1 that were not named: 14; specctl postmortem erase PM-1 --reason \"…\" erases all", others, chain}},
		{nil, 8, 6, "asked 1", "x7", []string{others, chain}},
		{nil, 0, 0, "said no", "x7", []string{others, chain}},
	} {
		done, err := c.Erase(ctx, ada, "PM-1", step.digests, "asked for")
		must(err)
		if want := (control.Erasure{Keys: step.keys, Excerpts: step.excerpts, Kept: step.kept}); !reflect.DeepEqual(done, want) {
			t.Errorf("erased %+v\nwant   %+v", done, want)
		}
		if all := left(); strings.Contains(all, step.gone) || !strings.Contains(all, step.there) {
			t.Errorf("%q is there, or %q is not:\n%s", step.gone, step.there, all)
		}
		if found := control.VerifyChain(s.View(), head); found.Err != nil {
			t.Errorf("the chain: %v", found.Err)
		}
	}
	if all := left(); strings.Contains(all, "key 0") {
		t.Errorf("a key is left in a list of executions:\n%s", all)
	}
	// A sidecar that is told again brings keys back, which the next erasure takes.
	_, err = s.Update(ctx, func(tx *store.Tx) error {
		tx.PutFailures(store.FailureBatch{Spec: "shop", Version: "2.1.0", Instance: "i", Seq: 2, Executions: failures[:1]})
		return nil
	})
	must(err)
	if done, err := c.Erase(ctx, ada, "PM-1", nil, "asked for"); err != nil || done.Keys != 1 || strings.Contains(left(), "key 0") {
		t.Errorf("told again: %+v, %v:\n%s", done, err, left())
	}
	// A digest that is mistyped erases nothing, and says so; one that was erased before is no mistake.
	if _, err := c.Erase(ctx, ada, "PM-1", []string{one, "sha256:nothing"}, "asked for"); err == nil || !strings.Contains(err.Error(), "names nothing by the digest sha256:nothing: nothing was erased") {
		t.Errorf("an unknown digest: %v", err)
	}
	if done, err := c.Erase(ctx, ada, "PM-1", []string{one}, "asked for"); err != nil || done.Keys+done.Excerpts != 0 {
		t.Errorf("again: %+v, %v", done, err)
	}
	if _, err := c.Erase(ctx, ada, "PM-7", nil, "asked for"); err == nil || !strings.Contains(err.Error(), "PM-7 does not exist") {
		t.Errorf("an unknown record: %v", err)
	}
	record, _ = s.View().PostMortem("PM-1")
	if len(record.Erasures) != 3 || record.Rollbacks[0].Evidence.First[0].Excerpt.Request.Digest != one {
		t.Errorf("erasures %+v of %+v", record.Erasures, record.Rollbacks[0].Evidence.First[0].Excerpt)
	}
}
