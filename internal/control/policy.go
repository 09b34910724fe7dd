package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/signing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// PolicySet is what SetPolicy did.
type PolicySet struct {
	Policy      versions.Policy
	AlreadyDone bool
	// Warnings name the versions with traffic now that would not be allowed to get it.
	Warnings []string
}

// SetPolicy replaces what a spec demands of versions. Only a person does: a gate that a script can open is none. Who has traffic keeps it.
func (c *Controller) SetPolicy(ctx context.Context, actor Actor, wish versions.Policy) (PolicySet, error) {
	out := PolicySet{}
	if actor.Automation {
		return out, refuse("ask a person to run: specctl policy set "+wish.Spec+" …", "only a person sets the policy of %s", wish.Spec)
	}
	if wish.OpenFor < 0 {
		return out, refuse("specctl policy set "+wish.Spec+" --postmortem-open-for 240h", "the policy of %s cannot be set: a post-mortem cannot be open for %s", wish.Spec, wish.OpenFor)
	}
	keys, err := signing.ParsePublicKeys(wish.SignedBy)
	if err != nil {
		return out, refuse("specctl key generate --out NAME", "the policy of %s cannot be set: %v", wish.Spec, err)
	}
	// In one form and order, so that the same policy is seen to be the same.
	slices.SortFunc(keys, func(a, b signing.PublicKey) int { return strings.Compare(a.ID, b.ID) })
	wish.SignedBy = nil
	for _, k := range keys {
		wish.SignedBy = append(wish.SignedBy, k.PEM)
	}
	_, err = c.store.Update(ctx, func(tx *store.Tx) error {
		out = PolicySet{}
		if len(tx.Versions(wish.Spec)) == 0 {
			return &NotFound{Refused{Why: fmt.Sprintf("spec %s does not exist", wish.Spec), Next: "specctl   (shows every spec)"}}
		}
		old, _ := tx.Policy(wish.Spec)
		if old.Same(wish) {
			out.Policy, out.AlreadyDone = old, true
			out.Policy.Spec = wish.Spec
			return nil
		}
		route, _ := tx.Route(wish.Spec)
		out.Policy = wish
		out.Policy.Revision, out.Policy.By, out.Policy.At, out.Policy.Generation = old.Revision+1, actor.Name, time.Now().UTC(), route.Generation
		tx.PutPolicy(out.Policy)
		return nil
	})
	if err != nil {
		return out, err
	}
	if !out.AlreadyDone {
		c.log.Info("policy set", zap.String("spec", wish.Spec), zap.Uint64("revision", out.Policy.Revision), zap.Int("keys", len(out.Policy.SignedBy)),
			zap.Bool("conformance", out.Policy.Conformance), zap.String("by", actor.Name), zap.String("reason", wish.Reason))
	}
	view := c.store.View()
	route, _ := view.Route(wish.Spec)
	for _, s := range route.Splits {
		if record, ok := view.Version(wish.Spec, s.Version); ok {
			if why := c.Permitted(ctx, record); why != nil {
				out.Warnings = append(out.Warnings, fmt.Sprintf("%s has traffic and keeps it, but could not get it now: %s", record.Ref(), firstLine(why)))
			}
		}
	}
	return out, nil
}

// Permitted says what the spec's policy has against giving the version traffic, or nil.
func (c *Controller) Permitted(ctx context.Context, record versions.Record) error {
	policy, _ := c.store.View().Policy(record.Spec)
	if !policy.Demands() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, gatherTimeout)
	defer cancel()
	attachments, err := c.archive.Attachments(ctx, record.Digest, "")
	return trusted(policy, record, evidence{record.Digest: {attachments, err}})
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// Attached lists what is attached to a version.
func (c *Controller) Attached(ctx context.Context, record versions.Record) ([]versions.Attachment, error) {
	return c.archive.Attachments(ctx, record.Digest, "")
}

// Content is a version from the archive, verified.
func (c *Controller) Content(ctx context.Context, record versions.Record) (versions.Packed, error) {
	packed, err := c.archive.Get(ctx, record.Digest)
	if err != nil {
		return packed, refuse("specctl verify "+record.Ref().String(), "%s cannot be read: %v", record.Ref(), err)
	}
	return packed, nil
}
