package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/fleet"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// The environment that makes this test binary the process that is killed.
const (
	killDir = "CONTROL_KILL_DIR"
	// killAt is "3" to die before the third write is sent, "3+" to die right after it was committed, empty to live.
	killAt = "CONTROL_KILL_AT"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDir); dir != "" {
		if err := story(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// personalKey is the client's key of the execution that failed.
const personalKey = "customer-17"

// note is what the process tells before and after each write, in a file beside its data: a line each, whole or not there.
type note struct {
	Writes int             `json:"writes"`
	Head   postmortem.Head `json:"head"`
}

// story is all that becomes of a record, from the rollback to the erasing of what was personal in it.
func story(dir string) error {
	ctx := context.Background()
	at := os.Getenv(killAt)
	writes := 0
	die := func(when string) {
		if at == when {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // SIGKILL is on its way
		}
	}
	s, err := store.Open(ctx, store.Options{DataDir: filepath.Join(dir, "data"), OnCommit: func(done bool) {
		if !done {
			writes++
			die(strconv.Itoa(writes))
			return
		}
		die(strconv.Itoa(writes) + "+")
	}})
	if err != nil {
		return err
	}
	arch, err := archive.Open(filepath.Join(dir, "archive"), zap.NewNop())
	if err != nil {
		return err
	}
	disc := discovery.New(discovery.Options{Store: s, Log: zap.NewNop()})
	fl := fleet.New(fleet.Options{Store: s, Archive: arch, Proxies: disc, Log: zap.NewNop()})
	c := control.New(control.Options{Store: s, Archive: arch, Fleet: fl, Discovery: disc, Log: zap.NewNop(), Alone: true})
	ada, bob := control.Actor{Name: "ada", Admin: true}, control.Actor{Name: "bob"}
	now := control.How{Now: true, Reason: "test"}
	answers := func() []postmortem.Answered {
		var all []postmortem.Answered
		for _, q := range postmortem.Questions() {
			all = append(all, postmortem.Answered{Question: q, Text: "answer to " + string(q)})
		}
		return all
	}
	for _, step := range []func() error{
		func() error { return publish(ctx, c, ada, "2.0.0", "") },
		func() error { return publish(ctx, c, ada, "2.1.0", "") },
		func() error { return deploy(ctx, c, ada, "2.0.0", now) },
		func() error { return deploy(ctx, c, ada, "2.1.0", now) },
		func() error {
			at := time.Now().UTC()
			_, err := s.Update(ctx, func(tx *store.Tx) error {
				tx.PutFailures(store.FailureBatch{Spec: "shop", Version: "2.1.0", Instance: "i", Seq: 1, Executions: []store.Failure{
					{ID: "x", Key: personalKey, Version: "2.1.0", StartedAt: at, EndedAt: at, Outcome: "failure", Reason: "refused"},
				}})
				return nil
			})
			return err
		},
		func() error {
			_, err := c.Rollback(ctx, ada, []control.RollbackTarget{{Spec: "shop"}}, now)
			return err
		},
		func() error { _, err := c.Answer(ctx, ada, "PM-1", answers()); return err },
		func() error {
			_, _, err := c.AddAction(ctx, ada, "PM-1", postmortem.Action{What: "add a case", Owner: "bob", Due: time.Now().Add(time.Hour)})
			return err
		},
		func() error { _, err := c.Approve(ctx, bob, "PM-1", ""); return err },
		func() error { return publish(ctx, c, ada, "2.2.0", "PM-1") },
		func() error {
			_, err := c.ClosePostMortem(ctx, ada, "PM-1", postmortem.SpecError, "it was the spec")
			return err
		},
		func() error { _, err := c.Reopen(ctx, bob, "PM-1", "there is more"); return err },
		func() error {
			_, err := c.Alert(ctx, postmortem.Alert{Spec: "shop", Source: "pager", Name: "QueueGrows"})
			return err
		},
		func() error {
			_, err := c.HandOver(ctx, ada, control.HandOver{Spec: "shop", To: "day-team"})
			return err
		},
		func() error {
			return deploy(ctx, c, ada, "2.1.0", control.How{Now: true, Override: "PM-1", OverrideReason: "2.0.0 is worse today"})
		},
		func() error { _, err := c.Erase(ctx, ada, "PM-1", nil, "asked for"); return err },
	} {
		if err := step(); err != nil {
			return err
		}
		raw, err := json.Marshal(note{Writes: writes, Head: s.View().ChainHead()})
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "told.tmp"), raw, 0o600); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(dir, "told.tmp"), filepath.Join(dir, "told")); err != nil {
			return err
		}
	}
	return s.Close()
}

func publish(ctx context.Context, c *control.Controller, who control.Actor, version, fixes string) error {
	manifest := fmt.Sprintf("name: shop\nversion: %s\ninFlight:\n  default: {onRollback: complete, within: 1m, then: cancel}\n", version)
	if fixes != "" {
		manifest += "fixes: " + fixes + "\n"
	}
	_, err := c.Publish(ctx, who, map[string][]byte{"spec.yaml": []byte(manifest)}, "")
	return err
}

func deploy(ctx context.Context, c *control.Controller, who control.Actor, version string, how control.How) error {
	_, err := c.Deploy(ctx, who, []versions.Ref{{Spec: "shop", Version: version}}, how)
	return err
}

// TestRecordSurvivesAKillAtEveryWrite counts the writes of a record's whole life and kills the process before and after each of them: what was
// told is there, the chain is whole and leads through every head that was told, the record is what its events say, and there is a record if
// and only if there is a rollback.
func TestRecordSurvivesAKillAtEveryWrite(t *testing.T) {
	whole := run(t, "")
	if whole.told.Writes < 16 || whole.told.Head.Seq < 14 {
		t.Fatalf("the whole story tells %+v", whole.told)
	}
	t.Logf("%d writes, %d events", whole.told.Writes, whole.told.Head.Seq)
	for n := 1; n <= whole.told.Writes; n++ {
		for _, at := range []string{strconv.Itoa(n), strconv.Itoa(n) + "+"} {
			t.Run(at, func(t *testing.T) { run(t, at).check(t, whole.told.Writes) })
		}
	}
}

type remains struct {
	dir  string
	told note
}

func run(t *testing.T, at string) remains {
	t.Helper()
	r := remains{dir: t.TempDir()}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), killDir+"="+r.dir, killAt+"="+at)
	out, err := cmd.CombinedOutput()
	if killed := err != nil && strings.Contains(err.Error(), "killed"); killed != (at != "") {
		t.Fatalf("the process ended with %v\n%s", err, out)
	}
	raw, err := os.ReadFile(filepath.Join(r.dir, "told"))
	if errors.Is(err, os.ErrNotExist) {
		return r
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &r.told); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r remains) check(t *testing.T, writes int) {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DataDir: filepath.Join(r.dir, "data")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	view := s.View()
	found := control.VerifyChain(view, r.told.Head)
	if found.Err != nil {
		t.Errorf("after %d of %d writes: %v", r.told.Writes, writes, found.Err)
	}
	if found.Head.Seq < r.told.Head.Seq {
		t.Errorf("the chain ends at event %d, and %d was told", found.Head.Seq, r.told.Head.Seq)
	}
	record, ok := view.PostMortem("PM-1")
	rolledBack := slices.ContainsFunc(view.History("shop"), func(r routing.Route) bool { return r.Kind == routing.KindRollback })
	if ok != rolledBack {
		t.Errorf("rolled back: %v, record: %v", rolledBack, ok)
	}
	if !ok {
		return
	}
	bad, _ := view.Version("shop", "2.1.0")
	blamed := record.Closing != nil
	route, _ := view.Route("shop")
	overridden := route.Weight("2.1.0") > 0
	want := map[bool]versions.Standing{true: versions.Retired, false: versions.Quarantined}[blamed]
	if overridden != (len(record.Overrides) > 0) || overridden == (bad.Standing == want) {
		t.Errorf("traffic is %s, 2.1.0 %s, the record closed: %v, overrides %+v", routing.Describe(route.Splits), bad.Standing, blamed, record.Overrides)
	}
	keys := ""
	for _, p := range view.Personal("PM-1") {
		keys += p.Text
	}
	for _, b := range view.Failures("shop", "2.1.0") {
		keys += b.Executions[0].Key
	}
	gathered, erased := record.Rollbacks[0].Evidence != nil, len(record.Erasures) > 0
	if want := map[bool]string{true: personalKey + personalKey, false: personalKey}[gathered]; erased && keys != "" || !erased && keys != want {
		t.Errorf("evidence gathered: %v, erased: %v, and the keys are %q", gathered, erased, keys)
	}
	_, fixed := view.Version("shop", "2.2.0")
	if named := slices.ContainsFunc(record.NamedBy, func(f postmortem.Fix) bool { return f.Version == "2.2.0" }); named != fixed {
		t.Errorf("2.2.0 is published: %v; the record says so: %v", fixed, named)
	}
}
