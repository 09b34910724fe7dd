package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

const (
	// effectWait is how long one question for the effect is held back by the server.
	effectWait = 2 * time.Second
	// effectRetry is the pause after a control plane did not answer: it may be restarting.
	effectRetry = 200 * time.Millisecond
	effectPause = 5 * time.Millisecond
	// shownLaggards bounds the list for people; -o json has all.
	shownLaggards = 10
)

// awaitEffect asks until the change is effective, a proxy has refused it, or the deadline has passed, and returns the last answer. A control
// plane that is away for a while changes nothing about what was committed, so it is asked again. The error is set only if there was never an
// answer.
func awaitEffect(ctx context.Context, c *conn, change *operatorv1.Change, deadline time.Time) (*operatorv1.GetEffectResponse, error) {
	var last *operatorv1.GetEffectResponse
	for {
		wait := max(0, min(effectWait, time.Until(deadline)))
		effect, err := ask(ctx, c, client.GetEffect, &operatorv1.GetEffectRequest{
			Spec: change.GetSpec(), Generation: change.GetGeneration(), Wait: durationpb.New(wait),
		}, wait)
		if err == nil {
			last = effect
		}
		_, away := errors.AsType[*unreachableError](err)
		switch over := !time.Now().Before(deadline) || ctx.Err() != nil; {
		case last.GetEffective(), refusedBy(change, last) != nil, over && last != nil:
			return last, nil
		case over, err != nil && !away:
			return last, err
		case err != nil:
			pause(ctx, effectRetry)
		default:
			// The server holds its answer back; this only bounds the rate at which one that does not is asked.
			pause(ctx, effectPause)
		}
	}
}

// refusedBy is the error of a change that a proxy refused; nil if none did. A rollback is no such change: its fence takes effect without them.
func refusedBy(change *operatorv1.Change, effect *operatorv1.GetEffectResponse) error {
	if len(effect.GetRefusals()) == 0 || effect.GetEffective() || len(change.GetAbandoned()) > 0 {
		return nil
	}
	return fmt.Errorf("%s: generation %d was refused, and who refused it keeps what it had\n%s\nnext: specctl rollback %s",
		change.GetSpec(), change.GetGeneration(), strings.Join(effect.GetRefusals(), "\n"), change.GetSpec())
}

func (a *app) printEffect(change *operatorv1.Change, effect *operatorv1.GetEffectResponse, err error, waited time.Duration) {
	if effect == nil {
		a.out.styled(red, "not proven", "the effect of generation %d could not be asked for: %v", change.GetGeneration(), err)
		a.printGoesOn(change)
		return
	}
	if effect.GetEffective() {
		after := "already"
		if effect.GetEffectiveAt().IsValid() && effect.GetCommittedAt().IsValid() {
			after = "after " + span(max(0, effect.GetEffectiveAt().AsTime().Sub(effect.GetCommittedAt().AsTime())))
		}
		a.out.styled(green, "effective", "%s, by %s", after, effect.GetBy())
	} else {
		a.out.styled(red, "not proven", "after %s", span(waited))
	}
	if len(change.GetAbandoned()) > 0 {
		a.out.field("last admission", "%s", lastAdmission(effect))
		a.out.field("fences", "%d of %d", effect.GetFencesAcked(), effect.GetFencesTotal())
	}
	if effect.GetProxiesTotal() == 0 {
		a.out.field("proxies", "none is known to route the spec yet: specctl proxies")
	} else {
		a.out.field("proxies", "%d of %d", effect.GetProxiesAcked(), effect.GetProxiesTotal())
	}
	for i, laggard := range effect.GetLaggards() {
		if i == shownLaggards {
			a.out.field("laggards", "and %d more: specctl proxies", len(effect.GetLaggards())-shownLaggards)
			break
		}
		a.out.styled(red, "laggard", "%s", laggard)
	}
	for _, refusal := range effect.GetRefusals() {
		a.out.styled(red, "refused", "%s", refusal)
	}
	if !effect.GetEffective() && refusedBy(change, effect) == nil {
		a.printGoesOn(change)
	}
}

func (a *app) printGoesOn(change *operatorv1.Change) {
	a.out.field("note", "it is committed and goes on by itself; it need not be repeated")
	a.out.field("next", "specctl get %s --watch", change.GetSpec())
}

// lastAdmission tells when the abandoned pool last took new work, against the commit.
func lastAdmission(effect *operatorv1.GetEffectResponse) string {
	at := effect.GetLastAdmissionAt()
	if !at.IsValid() {
		return "none seen on the abandoned pool"
	}
	text := precise(at)
	if effect.GetCommittedAt().IsValid() {
		switch d := at.AsTime().Sub(effect.GetCommittedAt().AsTime()); {
		case d < 0:
			text += fmt.Sprintf(", %s before the commit", span(-d))
		default:
			text += fmt.Sprintf(", %s after the commit", span(d))
		}
	}
	if effect.GetLastAdmissionId() != "" {
		text += " (" + effect.GetLastAdmissionId() + ")"
	}
	return text
}
