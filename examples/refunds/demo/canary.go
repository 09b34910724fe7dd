package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// canaryResult is out/demo-canary.json. Harm and payments are counted in the agents' journals and the payment ledger, not by the product.
type canaryResult struct {
	// StoppedMS is from the deploy command until the rollout was seen rolled back.
	StoppedMS float64 `json:"stopped_ms"`
	// Began refunds under the bad version, and Harmed of them, which it parked for supervisors who do not come.
	Began  int `json:"began_under_bad"`
	Harmed int `json:"harmed"`
	// HarmedWithout is how many it would have parked from the deploy until on-call rolled it back, had it got all the traffic, as in the story
	// without a canary.
	HarmedWithout int    `json:"harmed_without_canary"`
	PaidTwice     int    `json:"paid_twice"`
	Verdict       string `json:"verdict"`
	PostMortem    string `json:"postmortem"`
	Seed          uint64 `json:"seed"`
}

const (
	// stopsWithin bounds the wait for the canary to be stopped.
	stopsWithin = 90 * time.Second
	// fewHarmed is more than a canary of 5 % harms, and far less than the story without one.
	fewHarmed = 30
)

// tellCanary tells the same story with a canary in front: nobody is paged.
func (t *story) tellCanary() (canaryResult, error) {
	r := canaryResult{Seed: t.seed}
	if err := t.prologue(); err != nil {
		return r, err
	}
	t.clock = refund.Clock{Start: time.Now(), StartMinute: startMinute, EndMinute: endMinute, Minute: minuteTakes}
	if err := t.open(); err != nil {
		return r, err
	}
	if err := t.until(t.ctx, 5); err != nil {
		return r, err
	}
	good, bad := t.versions.good, t.versions.bad
	t.say("%s goes out behind a canary: the limit is $%d instead of $%d", bad.ref(), bad.limit, good.limit)
	if err := t.must(t.ctx, "plan", bad.ref()); err != nil {
		return r, err
	}
	began := time.Now()
	if err := t.must(t.ctx, "deploy", bad.ref(), "--canary"); err != nil {
		return r, err
	}
	if err := t.awaitStop(&r, began); err != nil {
		return r, err
	}
	for _, args := range [][]string{{"canary", "status", good.name}, {"get", good.name}, {"postmortem", "show", r.PostMortem}} {
		if err := t.must(t.ctx, args...); err != nil {
			return r, err
		}
	}
	without := float64(t.rate) * 13 * minuteTakes.Seconds() * (refund.Standard.Success(good.limit*100) - t.facts.Predicted)
	r.HarmedWithout = int(without)
	if err := t.closeDown(); err != nil {
		return r, err
	}
	return r, t.count(&r)
}

// awaitStop waits until the rollout has rolled itself back. Nobody types anything.
func (t *story) awaitStop(r *canaryResult, began time.Time) error {
	deadline := time.NewTimer(stopsWithin)
	defer deadline.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	var got operatorv1.GetRolloutResponse
	for got.GetRollout().GetPhase() != "aborted" {
		select {
		case <-again.C:
		case <-deadline.C:
			return fmt.Errorf("the canary was not stopped within %s: %s (%s)", stopsWithin, got.GetRollout().GetPhase(), got.GetRollout().GetVerdict().GetReason())
		case <-t.ctx.Done():
			return nil
		}
		if err := t.read(t.ctx, &got, "canary", "status", t.versions.good.name); err != nil {
			return err
		}
	}
	r.StoppedMS, r.Verdict = float64(time.Since(began).Microseconds())/1000, got.GetRollout().GetWhy()
	t.say("it was stopped by itself after %.1f s: %s", r.StoppedMS/1000, r.Verdict)
	var records operatorv1.ListPostMortemsResponse
	if err := t.read(t.ctx, &records, "postmortem", "list"); err != nil {
		return err
	}
	if n := len(records.GetPostmortems()); n != 1 {
		return fmt.Errorf("one rollback opened %d records", n)
	}
	r.PostMortem = records.GetPostmortems()[0].GetId()
	return nil
}

// count reads what really happened from the agents' journals and the payment ledger.
func (t *story) count(r *canaryResult) error {
	files, err := filepath.Glob(filepath.Join(t.journals(), "*"))
	if err != nil {
		return err
	}
	begun, parked := map[string]bool{}, map[string]bool{}
	for _, file := range files {
		lines, err := refund.ReadLog[refund.JournalLine](file)
		if err != nil {
			return err
		}
		for _, l := range lines {
			if l.Version != t.versions.bad.ref() {
				continue
			}
			switch l.Step {
			case refund.Began:
				begun[l.RefundID] = true
			case refund.Parked:
				parked[l.RefundID] = true
			case refund.Stopped, refund.Answered:
			}
		}
	}
	r.Began, r.Harmed = len(begun), len(parked)
	payments, err := refund.ReadLog[refund.LedgerLine](t.ledger())
	if err != nil {
		return err
	}
	paid := map[string]int{}
	for _, l := range payments {
		if l.Result == refund.Paid {
			if paid[l.RefundID]++; paid[l.RefundID] == 2 {
				r.PaidTwice++
			}
		}
	}
	return nil
}

// judge says what must hold of a run.
func (r canaryResult) judge() error {
	var wrong []string
	if r.Harmed == 0 || r.Harmed > fewHarmed {
		wrong = append(wrong, fmt.Sprintf("%d refunds were harmed, want a few, at most %d", r.Harmed, fewHarmed))
	}
	if r.PaidTwice > 0 {
		wrong = append(wrong, fmt.Sprintf("%d refunds were paid twice", r.PaidTwice))
	}
	if !strings.Contains(r.Verdict, "the canary fails more often") {
		wrong = append(wrong, "it was stopped for another reason: "+r.Verdict)
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}

// write puts the result where it belongs, and shows it.
func (r canaryResult) write(results string, show func(string)) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	show(string(data))
	return os.WriteFile(filepath.Join(results, "demo-canary.json"), append(data, '\n'), 0o644)
}
