package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// causes a post-mortem can close with, as the API names them.
var causes = []string{"spec-error", "correct-but-miscommunicated", "implementation", "environment", "false-alarm"}

func (a *app) postmortemCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "postmortem",
		Short: "Read, answer and close the records of rollbacks",
		Example: `  specctl postmortem list
  specctl postmortem show PM-1 > PM-1.md`,
		Aliases: []string{"pm"},
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError(cmd, "say which: list, show PM-1, answer PM-1, assign PM-1, approve PM-1, close PM-1, reopen PM-1, export PM-1 or verify")
		},
	}
	cmd.AddCommand(a.postmortemListCommand(), a.postmortemShowCommand(), a.postmortemAnswerCommand(), a.postmortemAssignCommand(),
		a.postmortemApproveCommand(), a.postmortemCloseCommand(), a.postmortemReopenCommand(), a.postmortemExportCommand(), a.postmortemVerifyCommand(),
		a.postmortemAlertCommand(), a.postmortemEraseCommand())
	return cmd
}

func (a *app) postmortemListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [SPEC]",
		Short: "List post-mortems, of one spec or of all",
		Example: `  specctl postmortem list
  specctl postmortem list customer-service -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError(cmd, "%s wants one spec or none, got %s", cmd.CommandPath(), plural(len(args), "argument", "arguments"))
			}
			return nil
		},
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
		list, err := ask(cmd.Context(), c, client.ListPostMortems, &operatorv1.ListPostMortemsRequest{Spec: strings.Join(args, "")}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(list)
		}
		if len(list.GetPostmortems()) == 0 {
			a.out.line("no post-mortem: nothing was ever rolled back")
			return nil
		}
		t := newTable("ID", "STATE", "OPENED", "BY", "WHAT")
		for _, pm := range list.GetPostmortems() {
			state := pm.GetState()
			if pm.GetCause() != "" {
				state += ": " + pm.GetCause()
			}
			t.row(pm.GetId(), state, a.moment(pm.GetOpenedAt()), pm.GetActor(), rolledBack(pm))
		}
		a.out.print(t, "")
		return nil
	}
	return cmd
}

// rolledBack says in one line what a post-mortem covers.
func rolledBack(pm *operatorv1.PostMortem) string {
	var parts []string
	for _, change := range pm.GetChanges() {
		parts = append(parts, change.GetSpec()+" "+strings.Join(change.GetAbandoned(), ", ")+" -> "+change.GetTarget())
	}
	what := strings.Join(parts, "; ")
	if pm.GetReason() != "" {
		what += ": " + pm.GetReason()
	}
	return what
}

func (a *app) postmortemShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show PM-1",
		Short: "Print one post-mortem as Markdown, or the whole record as JSON",
		Example: `  specctl postmortem show PM-1
  specctl postmortem show PM-1 -o json`,
		Args: exactly(1, "one post-mortem"),
	}
	output := outputFlag(cmd, "markdown", asJSON)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.GetPostMortem, &operatorv1.GetPostMortemRequest{Id: args[0]}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.rawJSON([]byte(got.GetPostmortem().GetJson()))
		}
		a.out.line("%s", strings.TrimRight(clean(got.GetPostmortem().GetMarkdown()), "\n"))
		return nil
	}
	return cmd
}

func (a *app) postmortemCloseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "close PM-1 --cause CAUSE",
		Short: "Close a post-mortem with its cause",
		Long: `Close a post-mortem with its cause: ` + strings.Join(causes[:3], ", ") + `,
` + strings.Join(causes[3:], ", ") + `.

Every question must be answered first (specctl postmortem answer), or with the
flags here; the note is the explanation where none was given.

environment and false-alarm make the quarantined versions candidates again;
any other cause retires them. A version that an undo or an override has brought
back is left as it is: one that is to blame stays until it is rolled back.`,
		Example: `  specctl postmortem close PM-1 --cause spec-error --note "the exception path was missing"
  specctl postmortem close PM-1 --cause false-alarm --note "the dashboard counted twice" \\
    --canary "nothing to catch" --conformance "nothing to find" --no-action "the dashboard is fixed"`,
		Args: exactly(1, "one post-mortem"),
	}
	cause := cmd.Flags().String("cause", "", "what it was: "+strings.Join(causes, ", "))
	note := cmd.Flags().String("note", "", "what was learned, what fixes it and in which version")
	answers := answerFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *cause == "":
			return usageError(cmd, "--cause is missing: one of %s", strings.Join(causes, ", "))
		case !slices.Contains(causes, *cause):
			return usageError(cmd, "--cause %q is not one of %s", *cause, strings.Join(causes, ", "))
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		if given := answers(); len(given) > 0 {
			if _, err := ask(cmd.Context(), c, client.Answer, &operatorv1.AnswerRequest{Id: args[0], Answers: given}, 0); err != nil {
				return err
			}
		}
		closed, err := ask(cmd.Context(), c, client.ClosePostMortem,
			&operatorv1.ClosePostMortemRequest{Id: args[0], Cause: *cause, Note: *note}, 0)
		if err != nil {
			return err
		}
		pm := closed.GetPostmortem()
		a.out.line("%s closed by %s: %s", clean(pm.GetId()), clean(pm.GetClosedBy()), clean(pm.GetCause()))
		if said := pm.GetNote(); said != *note {
			a.out.field("note", "it had been closed before with another note, which stays: %s", said)
		}
		return nil
	}
	return cmd
}
