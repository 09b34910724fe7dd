package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/signing"
	"github.com/specproxy/specproxy/internal/versions"
)

func (a *app) showCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show REF",
		Short: "Show one version: what it is, what it promises, what is attached to it",
		Long: `Show one version: its digest and standing, what it was derived from, its
in-flight contract, its signatures and test reports, and what the spec's policy
has against deploying it.

` + refHelp,
		Example: `  specctl show customer-service:2.1.0
  specctl show customer-service:latest-good -o json | jq -r .version.digest`,
		Args: exactly(1, "one REF"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		r, err := parseReference(args[0])
		if err != nil {
			return usageError(cmd, "%v", err)
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		ref, err := a.resolve(cmd.Context(), c, r)
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.GetVersion, &operatorv1.GetVersionRequest{Spec: ref.Spec, Version: ref.Version}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(got)
		}
		return a.printVersion(ref, got)
	}
	return cmd
}

func (a *app) printVersion(ref versions.Ref, got *operatorv1.GetVersionResponse) error {
	v := got.GetVersion()
	a.out.line("%s %s", ref, clean(v.GetDigest()))
	a.out.field("about", "%s", got.GetDescription())
	standing := v.GetStanding()
	if v.GetStandingReason() != "" {
		standing += ": " + v.GetStandingReason()
	}
	if v.GetPostmortem() != "" {
		standing += " (" + v.GetPostmortem() + ")"
	}
	a.out.field("standing", "%s", standing)
	a.out.field("traffic", "%s, %s ready", percent(v.GetWeight()), ready(v.GetPool()))
	a.out.field("published", "%s by %s", a.moment(v.GetPublishedAt()), v.GetPublishedBy())
	a.out.field("from", "%s", strings.Join(got.GetParents(), ", "))
	a.out.field("answers", "%s", got.GetFixes())
	var m versions.Manifest
	if err := json.Unmarshal([]byte(got.GetManifestJson()), &m); err != nil {
		return fmt.Errorf("the manifest of %s as the control plane sent it: %w", ref, err)
	}
	a.out.field("hosts", "%s", strings.Join(m.Hosts, ", "))
	a.out.field("documents", "%s", strings.Join(append([]string{versions.ManifestPath}, m.Documents...), ", "))
	for _, at := range got.GetAttachments() {
		a.printAttachment(at)
	}
	a.out.styled(red, "unread", "%s", got.GetAttachmentsUnread())
	if got.GetPolicyRefusal() != "" {
		a.out.styled(red, "policy", "%s", got.GetPolicyRefusal())
	}
	for _, line := range drain.Explain(m.InFlight) {
		a.out.field("contract", "%s", line)
	}
	return nil
}

func (a *app) printAttachment(at *operatorv1.Attachment) {
	who := fmt.Sprintf("attached %s by %s", a.moment(at.GetAttachedAt()), at.GetAttachedBy())
	switch {
	case at.GetConformance() != nil:
		r := at.GetConformance()
		s := plain
		if !r.GetPassed() {
			s = red
		}
		a.out.styled(s, "tests", "%s; %s", testsOf(r), who)
		if len(r.GetFailed()) > 0 {
			a.out.styled(s, "failed", "%s", strings.Join(r.GetFailed(), ", "))
		}
	case at.GetArtifactType() == versions.TypeSignature:
		var ids []string
		for _, id := range at.GetKeyIds() {
			ids = append(ids, signing.Short(id))
		}
		a.out.field("signature", "says key %s; %s", strings.Join(ids, ", "), who)
	default:
		a.out.field("attached", "%s; %s", at.GetArtifactType(), who)
	}
}

func testsOf(r *operatorv1.ConformanceSummary) string {
	return fmt.Sprintf("%s: %d passed, %d failed, %d skipped", r.GetSuite(), r.GetTests()-r.GetFailures()-r.GetSkipped(), r.GetFailures(), r.GetSkipped())
}

func (a *app) catCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cat REF DOCUMENT",
		Short: "Print one document of a version, verified",
		Long: `Print one document of a version as it was published, every byte verified.
spec.yaml is one of them.

` + refHelp,
		Example: "  specctl cat customer-service:2.1.0 limits.yaml",
		Args:    exactly(2, "one REF and the path of a document"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseReference(args[0])
			if err != nil {
				return usageError(cmd, "%v", err)
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			ref, err := a.resolve(cmd.Context(), c, r)
			if err != nil {
				return err
			}
			packed, _, err := a.fetch(cmd.Context(), c, ref, false)
			if err != nil {
				return err
			}
			data, ok := packed.File(args[1])
			if !ok {
				var names []string
				for _, b := range packed.Blobs {
					names = append(names, b.Path)
				}
				return fmt.Errorf("%s has no document %q\nthere is: %s", ref, args[1], strings.Join(names, ", "))
			}
			// On a terminal a document must not move the cursor; elsewhere it is wanted byte for byte.
			if a.env.Terminal {
				data = []byte(clean(string(data)))
			}
			_, err = a.env.Stdout.Write(data)
			return err
		},
	}
}
