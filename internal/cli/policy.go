package cli

import (
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Say what a version must bring before it gets traffic",
		Example: `  specctl policy show customer-service
  specctl policy set customer-service --require-signature release.pub`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError(cmd, "say what to do: specctl policy show SPEC, specctl policy set SPEC …")
		},
	}
	cmd.AddCommand(a.policyShowCommand(), a.policySetCommand())
	return cmd
}

func (a *app) policyShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show SPEC",
		Short:   "Show what a spec demands, and who set it",
		Example: "  specctl policy show customer-service",
		Args:    exactly(1, "one spec"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.GetPolicy, &operatorv1.GetPolicyRequest{Spec: args[0]}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(got)
		}
		a.printPolicy(got.GetPolicy())
		for _, p := range got.GetHistory() {
			a.printPolicy(p)
		}
		return nil
	}
	return cmd
}

func (a *app) printPolicy(p *operatorv1.Policy) {
	if p.GetRevision() == 0 {
		a.out.heading("%s: no policy", p.GetSpec())
		a.out.field("any version", "may get traffic")
		return
	}
	a.out.heading("%s: policy %d", p.GetSpec(), p.GetRevision())
	for _, id := range p.GetKeyIds() {
		a.out.field("signed by", "key %s", id)
	}
	if len(p.GetKeyIds()) > 1 {
		a.out.field("", "one of them is enough")
	}
	if p.GetConformance() {
		a.out.field("tests", "a report is attached, and of every suite the newest passed")
	}
	if p.GetApproval() {
		a.out.field("post-mortems", "close only once a second person has approved the answers")
	}
	if d := p.GetOpenFor().AsDuration(); d > 0 {
		a.out.field("post-mortems", "open for more than %s keep new versions out", d)
	}
	if len(p.GetKeyIds()) == 0 && !p.GetConformance() {
		a.out.field("any version", "may get traffic")
	}
	a.out.field("set", "%s by %s", a.moment(p.GetSetAt()), p.GetActor())
	a.out.field("reason", "%s", p.GetReason())
}

func (a *app) policySetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set SPEC (--require-signature PUB... | --require-conformance | … | --none)",
		Short: "Replace what a spec demands of a version before it gets traffic",
		Long: `Replace what a spec demands of a version before it gets traffic. The whole
policy is given each time. It is checked when a version is given weight, and
the keys again by every sidecar before it is ready.

It looks ahead only: what has traffic keeps it, and a rollback to a version that
had traffic before is never stopped by it.`,
		Example: `  specctl policy set customer-service --require-signature release.pub
  specctl policy set customer-service --require-signature a.pub --require-signature b.pub --require-conformance
  specctl policy set customer-service --none --reason "moving to new keys"`,
		Args: exactly(1, "one spec"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	flags := cmd.Flags()
	files := flags.StringArray("require-signature", nil, "PEM file with a public key; one of those given must have signed (may be repeated)")
	conformance := flags.Bool("require-conformance", false, "a test report must be attached, and of every suite the newest must have passed")
	approval := flags.Bool("require-approval", false, "a second person approves the answers of a post-mortem before it closes")
	openFor := flags.Duration("postmortem-open-for", 0, "no new version gets traffic while a post-mortem has been open for longer, such as 240h")
	nothing := flags.Bool("none", false, "demand nothing")
	reason := flags.String("reason", "", "why, for the record")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		if *openFor < 0 {
			return usageError(cmd, "--postmortem-open-for %s: a time cannot be negative", *openFor)
		}
		if demands := len(*files) > 0 || *conformance || *approval || *openFor > 0; demands == *nothing {
			return usageError(cmd, "say what to demand (--require-signature PUB, --require-conformance, --require-approval, --postmortem-open-for TIME) or --none")
		}
		keys, err := readPublicKeys(*files)
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		request := &operatorv1.SetPolicyRequest{Spec: args[0], Conformance: *conformance, Approval: *approval, Reason: *reason}
		if *openFor > 0 {
			request.OpenFor = durationpb.New(*openFor)
		}
		for _, key := range keys {
			request.SignedBy = append(request.SignedBy, key.PEM)
		}
		set, err := ask(cmd.Context(), c, client.SetPolicy, request, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(set)
		}
		a.printPolicy(set.GetPolicy())
		if set.GetAlreadyDone() {
			a.out.field("note", "it was so before; nothing changed")
		}
		for _, warning := range set.GetWarnings() {
			a.out.styled(red, "warning", "%s", warning)
		}
		return nil
	}
	return cmd
}

func (a *app) attachCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "attach REF --conformance FILE",
		Short: "Attach a test report to a version",
		Long: `Attach a report of the tests that a version was put through, JUnit XML or JSON,
to it in the archive. show lists it, a policy may demand it, and a post-mortem
can ask later why it passed. A later report of the same suite takes its place.

JSON is {"suite": NAME, "tests": [{"name": NAME, "outcome": "passed"}]}, with
passed, failed or skipped; other fields are for people.

` + refHelp,
		Example: `  specctl attach customer-service:2.1.0 --conformance report.xml
  specctl attach customer-service:2.1.0 --conformance report.json --suite nightly`,
		Args: exactly(1, "one REF"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	file := cmd.Flags().String("conformance", "", "the report, JUnit XML or JSON")
	suite := cmd.Flags().String("suite", "", "name of the suite, where the report gives none or another is wanted")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		r, err := parseReference(args[0])
		if err != nil {
			return usageError(cmd, "%v", err)
		}
		if *file == "" {
			return usageError(cmd, "name the report: --conformance FILE")
		}
		data, err := readBounded(*file, maxReport)
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		ref, err := a.resolve(cmd.Context(), c, r)
		if err != nil {
			return err
		}
		attached, err := ask(cmd.Context(), c, client.Attach, attachReport(ref, data, *suite), 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(attached)
		}
		a.out.line("%s", ref)
		a.printAttachment(attached.GetAttachment())
		if !attached.GetCreated() {
			a.out.field("note", "it had this report before; nothing changed")
		}
		return nil
	}
	return cmd
}
