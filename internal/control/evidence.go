package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/conformance"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/signing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// gatherTimeout bounds how long a deploy waits for the archive to say what is attached.
const gatherTimeout = 10 * time.Second

// evidence is what is attached to the versions that a command wants to give weight, by digest. It is read before the command takes its turn, so
// that a slow archive holds up nobody else, least of all a rollback.
type evidence map[string]found

type found struct {
	attachments []versions.Attachment
	err         error
}

// gather reads the evidence that policies will ask for. What a rollback returns to needs none, and nothing is read for it.
func (c *Controller) gather(ctx context.Context, wants []want) evidence {
	digests := map[string]bool{}
	// Only a question: what cannot be answered here is refused where the change is planned.
	_, _ = c.store.Update(ctx, func(tx *store.Tx) error {
		clear(digests)
		for _, w := range wants {
			if policy, ok := tx.Policy(w.spec); !ok || !policy.Demands() {
				continue
			}
			before, _ := tx.Route(w.spec)
			g, err := w.resolve(tx, before)
			if err != nil || g.done != nil {
				continue
			}
			records := tx.Versions(w.spec)
			after := g.after(w.kind, before, g.splits, records)
			gains := after.Gains(before)
			if g.reshadow && g.shadow != nil {
				gains = append(gains, g.shadow.Version)
			}
			for _, version := range gains {
				record := versionOf(version, records)
				if record.Digest != "" && !comesBack(record, after.Abandoned, records) {
					digests[record.Digest] = true
				}
			}
		}
		return errDryRun
	})
	if len(digests) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, gatherTimeout)
	defer cancel()
	all := evidence{}
	for digest := range digests {
		attachments, err := c.archive.Attachments(ctx, digest, "")
		all[digest] = found{attachments, err}
	}
	return all
}

// comesBack says that the change is a rollback and the version one that held weight before what is abandoned: no policy stands in its way. It was
// let in under the rules of its time, and the way out must stay open. A new version that rides along in the same change is no way out.
func comesBack(record versions.Record, abandoned []string, records []versions.Record) bool {
	return record.FirstWeight != 0 && slices.ContainsFunc(abandoned, func(v string) bool {
		return routing.Earlier(record, versionOf(v, records)) < 0
	})
}

// trusted refuses a version that is to get weight and is not what the spec's policy demands.
func trusted(policy versions.Policy, record versions.Record, e evidence) error {
	if !policy.Demands() {
		return nil
	}
	f, ok := e[record.Digest]
	if !ok {
		return refuse("repeat the command", "the policy of %s was changed while %s was being deployed", record.Spec, record.Ref())
	}
	if f.err != nil {
		return refuse(fmt.Sprintf("specctl show %s   (or, to go without: specctl policy set %s …)", record.Ref(), record.Spec),
			"the policy of %s demands proof, and what is attached to %s cannot be read: %v", record.Spec, record.Ref(), f.err)
	}
	return errors.Join(signed(policy, record, f.attachments), conforms(policy, record, f.attachments))
}

func signed(policy versions.Policy, record versions.Record, attachments []versions.Attachment) error {
	if len(policy.SignedBy) == 0 {
		return nil
	}
	keys, err := signing.ParsePublicKeys(policy.SignedBy)
	if err != nil {
		return refuse("specctl policy set "+record.Spec+" --require-signature PUB", "the policy of %s holds a key that cannot be used: %v", record.Spec, err)
	}
	subject := signing.Subject{Ref: record.Ref(), Digest: record.Digest}
	why := []string{}
	for _, at := range attachments {
		if at.Type != versions.TypeSignature {
			continue
		}
		_, err := signing.Verify(at.Data, subject, keys)
		if err == nil {
			return nil
		}
		why = append(why, err.Error())
	}
	said := "it has no signature"
	if len(why) > 0 {
		said = "its signatures do not count: " + strings.Join(why[:min(len(why), 3)], "; ")
	}
	return refuse(fmt.Sprintf("specctl sign %s --key FILE", record.Ref()), "%s must be signed by %s before it gets traffic (policy %d of %s, by %s): %s",
		record.Ref(), oneOf(keys), policy.Revision, record.Spec, policy.By, said)
}

func oneOf(keys []signing.PublicKey) string {
	ids := make([]string, 0, len(keys))
	for _, k := range keys {
		ids = append(ids, signing.Short(k.ID))
	}
	if len(ids) == 1 {
		return "key " + ids[0]
	}
	return "one of the keys " + strings.Join(ids, ", ")
}

// conforms wants at least one report, and that of every suite the newest passed.
func conforms(policy versions.Policy, record versions.Record, attachments []versions.Attachment) error {
	if !policy.Conformance {
		return nil
	}
	newest := map[string]conformance.Report{}
	when := map[string]time.Time{}
	for _, at := range attachments {
		if at.Type != versions.TypeConformance {
			continue
		}
		report, err := Report(at)
		if err != nil {
			return refuse("specctl show "+record.Ref().String(), "a report attached to %s cannot be read: %v", record.Ref(), err)
		}
		// Two of the same second: the one that failed counts.
		if t, seen := when[report.Suite]; !seen || at.At.After(t) || at.At.Equal(t) && !report.Passed() {
			newest[report.Suite], when[report.Suite] = report, at.At
		}
	}
	next := fmt.Sprintf("specctl attach %s --conformance FILE", record.Ref())
	rule := fmt.Sprintf("(policy %d of %s, by %s)", policy.Revision, record.Spec, policy.By)
	if len(newest) == 0 {
		return refuse(next, "%s must have passed its tests before it gets traffic %s: no report is attached", record.Ref(), rule)
	}
	var failed []string
	for _, r := range slices.SortedFunc(maps.Values(newest), func(a, b conformance.Report) int { return cmp.Compare(a.Suite, b.Suite) }) {
		if !r.Passed() {
			failed = append(failed, r.String())
		}
	}
	if len(failed) > 0 {
		return refuse(next, "%s must have passed its tests before it gets traffic %s: %s", record.Ref(), rule, strings.Join(failed, "; "))
	}
	return nil
}

// Report reads an attached report again: nothing that was once written about it is believed.
func Report(at versions.Attachment) (conformance.Report, error) {
	return conformance.Parse(at.Data, at.Title)
}
