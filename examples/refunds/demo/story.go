package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// The story's clock.
const (
	startMinute = 14 * 60
	endMinute   = startMinute + 25
	minuteTakes = 1350 * time.Millisecond
)

// story is what happens between 14:00 and 14:25, step by step.
type story struct {
	*stage
	versions cast
	facts    refund.Facts
	// small canary before the deploy.
	small bool
}

// scene happens at a time of the story, in minutes after its start.
type scene struct {
	at   float64
	play func() error
}

// tell tells the whole story. When it returns without an error, the traffic has ended and the facts are written.
func (t *story) tell() error {
	if err := t.prologue(); err != nil {
		return err
	}
	t.clock = refund.Clock{Start: time.Now(), StartMinute: startMinute, EndMinute: endMinute, Minute: minuteTakes}
	t.facts.Clock = t.clock
	for _, s := range []scene{
		{0, t.open},
		{3, t.look("all is well", "")},
		{4.4, t.showBad},
		{5, t.deployBad},
		{8, t.look("refunds above the new limit wait for supervisors who do not come", "")},
		{13, t.look("the queue grows", "")},
		{17, t.look("on-call is paged", "get")},
		{18, t.rollBack},
		{20, t.tryAgain},
		{20.5, t.readRecord},
		{21.5, t.putRight},
		{24, t.look("refunds of every size are paid again", "")},
		{25, t.closeDown},
	} {
		if err := t.until(t.ctx, s.at); err != nil {
			return err
		}
		if err := s.play(); err != nil {
			return err
		}
	}
	return t.facts.Write(t.stage.facts())
}

// prologue raises everything and puts the good version to work, before the clock starts.
func (t *story) prologue() error {
	good, bad := t.versions.good, t.versions.bad
	t.say("starting the payment process, the control plane and %d Envoys", proxies)
	if err := t.raise(); err != nil {
		return err
	}
	for _, v := range []version{good, bad} {
		if err := t.must(t.ctx, "publish", v.folder); err != nil {
			return err
		}
		if err := t.must(t.ctx, "attach", v.ref(), "--conformance", t.conformance); err != nil {
			return err
		}
	}
	t.say("starting %d instances of each version", instances)
	for _, v := range []version{good, bad} {
		if err := t.pool(v); err != nil {
			return err
		}
	}
	if err := t.must(t.ctx, "deploy", good.ref()); err != nil {
		return err
	}
	if err := t.serving(good); err != nil {
		return err
	}
	t.say("refunds: %s", refund.Standard)
	t.say("so %.1f %% succeed under %s (limit $%d), and %.1f %% would under %s (limit $%d)",
		100*refund.Standard.Success(good.limit*100), good.ref(), good.limit, 100*t.facts.Predicted, bad.ref(), bad.limit)
	return nil
}

func (t *story) open() error {
	t.say("customers come: %d refunds a second over %d Envoys, seed %d", t.rate, len(t.envoys), t.seed)
	return t.sendTraffic(t.versions.good.host())
}

// look shows what an operator sees: the fleet, or one spec with its history.
func (t *story) look(why, command string) func() error {
	return func() error {
		t.say("%s", why)
		if command == "" {
			return t.must(t.ctx)
		}
		return t.must(t.ctx, command, t.versions.good.name)
	}
}

// mark notes a moment for the plot.
func (t *story) mark(label string) time.Time {
	now := time.Now()
	t.facts.Marks = append(t.facts.Marks, refund.Mark{At: now, Label: label})
	return now
}

// showBad is a canary by hand that ends before it can have seen anything.
func (t *story) showBad() error {
	good, bad := t.versions.good, t.versions.bad
	if !t.small {
		return nil
	}
	t.say("%s gets 5 %% for a moment; nobody complains", bad.ref())
	t.mark("5 % " + bad.version)
	return t.must(t.ctx, "weights", good.name, good.version+"=95", bad.version+"=5")
}

func (t *story) deployBad() error {
	t.say("%s goes out: the limit is $%d instead of $%d", t.versions.bad.ref(), t.versions.bad.limit, t.versions.good.limit)
	t.facts.DeployedAt = t.mark("deploy " + t.versions.bad.version)
	return t.must(t.ctx, "deploy", t.versions.bad.ref())
}

// rollBack is the moment that everything else is there for.
func (t *story) rollBack() error {
	t.say("on-call types")
	t.facts.RolledBackAt = t.mark("rollback to " + t.versions.good.version)
	err := t.must(t.ctx, "deploy", t.versions.good.ref(), "--reason", "refunds wait for supervisors", "--watch-for", "2s")
	if err != nil {
		return err
	}
	var records operatorv1.ListPostMortemsResponse
	if err := t.read(t.ctx, &records, "postmortem", "list"); err != nil {
		return err
	}
	if n := len(records.GetPostmortems()); n != 1 {
		return fmt.Errorf("one rollback opened %d records", n)
	}
	record := records.GetPostmortems()[0]
	t.facts.PostMortem = record.GetId()
	return t.countProxies(record)
}

// countProxies counts the Envoys that acknowledged the generation of the rollback.
func (t *story) countProxies(record *operatorv1.PostMortem) error {
	if len(record.GetChanges()) != 1 {
		return fmt.Errorf("%s covers %d changes, want the one that was typed", record.GetId(), len(record.GetChanges()))
	}
	generation := record.GetChanges()[0].GetGeneration()
	var known operatorv1.ListProxiesResponse
	if err := t.read(t.ctx, &known, "proxies"); err != nil {
		return err
	}
	for _, p := range known.GetProxies() {
		for _, s := range p.GetSpecs() {
			if s.GetSpec() == t.versions.good.name && s.GetAckedGeneration() >= generation {
				t.facts.Proxies++
			}
		}
	}
	if t.facts.Proxies != proxies {
		return fmt.Errorf("%d of %d Envoys acknowledged generation %d after the rollback had been said to be effective", t.facts.Proxies, proxies, generation)
	}
	return nil
}

// tryAgain shows that the abandoned version stays out.
func (t *story) tryAgain() error {
	t.say("somebody tries the abandoned version again")
	result, err := t.typeIn(t.ctx, "deploy", t.versions.bad.ref())
	switch {
	case err != nil:
		return err
	case result.code == 0:
		return fmt.Errorf("%s was deployed although %s is open", t.versions.bad.ref(), t.facts.PostMortem)
	case !strings.Contains(result.output, t.facts.PostMortem):
		return fmt.Errorf("the refusal to deploy %s does not name %s", t.versions.bad.ref(), t.facts.PostMortem)
	}
	return nil
}

func (t *story) readRecord() error {
	t.say("the post-mortem")
	if err := t.must(t.ctx, "postmortem", "show", t.facts.PostMortem); err != nil {
		return err
	}
	if err := t.must(t.ctx, "postmortem", "assign", t.facts.PostMortem, "--owner", "policy team", "--due", "14d",
		"--what", "publish a conformance case beyond the limit, and deploy limits behind a canary"); err != nil {
		return err
	}
	canary := "there was none: the version got all the traffic at once"
	if t.small {
		canary = "somebody gave it 5 % by hand, looked for a moment and waved it through: too few refunds came to it to show anything"
	}
	return t.must(t.ctx, "postmortem", "close", t.facts.PostMortem, "--cause", "spec-error",
		"--note", fmt.Sprintf("the limit came without a path beyond it; %s has one", t.versions.fixed.version),
		"--canary", canary, "--conformance", "its cases stop at 99 dollars: none is above the limit that was lowered",
		"--fixed-in", t.versions.fixed.version)
}

func (t *story) putRight() error {
	fixed := t.versions.fixed
	t.say("%s has the lower limit and the exception beyond it", fixed.ref())
	if err := t.must(t.ctx, "publish", fixed.folder); err != nil {
		return err
	}
	if err := t.pool(fixed); err != nil {
		return err
	}
	t.mark("deploy " + fixed.version)
	if err := t.must(t.ctx, "deploy", fixed.ref()); err != nil {
		return err
	}
	t.say("the post-mortem, for the repository")
	return t.must(t.ctx, "postmortem", "export", t.facts.PostMortem, "--out", filepath.Join(t.results, "postmortem"))
}

// closeDown ends the traffic, waits for what is under way, and ends the processes, so that their logs are whole.
func (t *story) closeDown() error {
	t.say("the customers leave; the last refunds are waited for")
	if err := t.traffic.stop(trafficGrace + patience); err != nil {
		return err
	}
	t.say("everything ends")
	err := t.end()
	if cause := context.Cause(t.ctx); cause != nil && !errors.Is(err, cause) {
		err = errors.Join(cause, err)
	}
	return err
}
