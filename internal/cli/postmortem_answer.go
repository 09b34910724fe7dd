package cli

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/timestamppb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// questions of a post-mortem, as the API names them, and as flags.
var questions = []struct{ name, asks string }{
	{"explanation", "what happened, and how did the cause lead to it"},
	{"canary", "why did the canary not catch it"},
	{"conformance", "why did conformance pass"},
	{"fixed-in", "what fixes it, and in which version"},
	{"no-action", "why nothing is to be done, if there is no action item"},
}

// answerFlags gives a command one flag for each question, and returns what reads the answers that were given.
func answerFlags(flags *pflag.FlagSet) func() []*operatorv1.QuestionAnswer {
	for _, q := range questions {
		flags.String(q.name, "", q.asks)
	}
	return func() []*operatorv1.QuestionAnswer {
		var given []*operatorv1.QuestionAnswer
		for _, q := range questions {
			if f := flags.Lookup(q.name); f.Changed {
				given = append(given, &operatorv1.QuestionAnswer{Question: q.name, Text: f.Value.String()})
			}
		}
		return given
	}
}

func (a *app) postmortemAnswerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "answer PM-1",
		Short: "Answer questions of a post-mortem",
		Long: `Answer questions of a post-mortem. All must be answered before it can be
closed. A later answer replaces an earlier one, and takes approvals back. Without
a flag the command shows what is still asked.`,
		Example: `  specctl postmortem answer PM-1 --canary "there was none: 2.1.0 got everything at once"
  specctl postmortem answer PM-1 --conformance "no case is above \$100" --fixed-in 2.2.0`,
		Args: exactly(1, "one post-mortem"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	answers := answerFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.Answer, &operatorv1.AnswerRequest{Id: args[0], Answers: answers()}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(got)
		}
		if len(got.GetUnanswered()) == 0 {
			a.out.line("%s: every question is answered", clean(args[0]))
			a.out.field("next", "specctl postmortem close %s --cause CAUSE --note \"…\"", args[0])
			return nil
		}
		a.out.line("%s: still asked", clean(args[0]))
		for _, name := range got.GetUnanswered() {
			for _, q := range questions {
				if q.name == name {
					a.out.field("--"+name, "%s", q.asks)
				}
			}
		}
		return nil
	}
	return cmd
}

func (a *app) postmortemAssignCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "assign PM-1 --owner NAME [--due TIME] [--what \"…\"]",
		Short: "Give a post-mortem an owner, or add an action item, or end one",
		Long: `Give a post-mortem an owner; with --what, add an action item with an owner and a
due date; with --done, say that an action item is done.`,
		Example: `  specctl postmortem assign PM-1 --owner bob --due 3d
  specctl postmortem assign PM-1 --what "add a case above the limit" --owner bob --due 2026-12-08
  specctl postmortem assign PM-1 --done A1`,
		Args: exactly(1, "one post-mortem"),
	}
	flags := cmd.Flags()
	owner := flags.String("owner", "", "who looks after it")
	due := flags.String("due", "", "by when: a date, or a time from now such as 3d or 12h")
	what := flags.String("what", "", "what is to be done: an action item")
	done := flags.String("done", "", "the action item that is done, such as A1")
	note := flags.String("note", "", "for whoever takes over")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (*owner == "") == (*done == "") {
			return usageError(cmd, "say who (--owner NAME), or what is done (--done A1)")
		}
		by, err := a.dueFlag(cmd, *due)
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.Assign, &operatorv1.AssignRequest{Id: args[0], Owner: *owner, Due: by, What: *what, Done: *done, Note: *note}, 0)
		if err != nil {
			return err
		}
		switch id := clean(args[0]); {
		case *done != "":
			a.out.line("%s: %s is done", id, clean(got.GetAction()))
		case *what != "":
			a.out.line("%s: %s for %s, due %s", id, clean(got.GetAction()), clean(*owner), by.AsTime().Format(time.DateOnly))
		default:
			a.out.line("%s: %s looks after it", id, clean(*owner))
		}
		return nil
	}
	return cmd
}

// dueFlag reads a date, or a time from now in hours or days.
func (a *app) dueFlag(cmd *cobra.Command, text string) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return timestamppb.New(day.Add(24*time.Hour - time.Second)), nil
	}
	if number, ok := strings.CutSuffix(text, "d"); ok {
		if days, err := strconv.ParseUint(number, 10, 12); err == nil && days > 0 {
			return timestamppb.New(a.env.Now().Add(time.Duration(days) * 24 * time.Hour)), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return timestamppb.New(a.env.Now().Add(d)), nil
	}
	return nil, usageError(cmd, "--due %q is neither a date such as 2026-12-08 nor a time from now such as 3d or 12h", text)
}

func (a *app) postmortemApproveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "approve PM-1",
		Short:   "Approve the answers of a post-mortem, as somebody who gave none of them",
		Example: `  specctl postmortem approve PM-1 --note "read it with the team"`,
		Args:    exactly(1, "one post-mortem"),
	}
	note := cmd.Flags().String("note", "", "what the approval rests on")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		if _, err := ask(cmd.Context(), c, client.Approve, &operatorv1.ApproveRequest{Id: args[0], Note: *note}, 0); err != nil {
			return err
		}
		a.out.line("%s: the answers are approved", clean(args[0]))
		return nil
	}
	return cmd
}

func (a *app) postmortemReopenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reopen PM-1 --reason \"…\"",
		Short: "Open a closed post-mortem again",
		Long: `Open a closed post-mortem again. Versions that it had retired are quarantined
again until it is closed; those that it had cleared are left as they are.`,
		Example: `  specctl postmortem reopen PM-1 --reason "the same customers were hit before 2.1.0"`,
		Args:    exactly(1, "one post-mortem"),
	}
	reason := cmd.Flags().String("reason", "", "why, for the record")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *reason == "" {
			return usageError(cmd, "--reason is missing: it is written into the record")
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		if _, err := ask(cmd.Context(), c, client.Reopen, &operatorv1.ReopenRequest{Id: args[0], Reason: *reason}, 0); err != nil {
			return err
		}
		a.out.line("%s is open", clean(args[0]))
		return nil
	}
	return cmd
}

func (a *app) postmortemExportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export PM-1 [--out DIR]",
		Short: "Write a post-mortem into files: Markdown, JSON, and its chained events",
		Long: `Write everything of a post-mortem into files: PM-1.md to read, PM-1.json for
programs, PM-1.events.jsonl with its events as they were chained. Prints the head
of the chain, which is worth keeping elsewhere: see verify.`,
		Example: `  specctl postmortem export PM-1 --out postmortems`,
		Args:    exactly(1, "one post-mortem"),
	}
	bare := cmd.Flags().Bool("without-personal", false, "leave PM-1.personal.json out, which holds the keys and texts that the record names by digest, and all texts of excerpts")
	dir := cmd.Flags().String("out", ".", "folder to write to; made if it is not there")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.Export, &operatorv1.ExportRequest{Id: args[0], WithoutPersonal: *bare}, 0)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(*dir, 0o777); err != nil {
			return fmt.Errorf("export to %s: %w", *dir, err)
		}
		for _, f := range got.GetFiles() {
			if !fs.ValidPath(f.GetPath()) || !filepath.IsLocal(f.GetPath()) {
				return fmt.Errorf("the control plane sent a file with the name %q", f.GetPath())
			}
			name := filepath.Join(*dir, filepath.FromSlash(f.GetPath()))
			if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
				return fmt.Errorf("export to %s: %w", *dir, err)
			}
			if err := os.WriteFile(name, f.GetContent(), 0o666); err != nil {
				return fmt.Errorf("export to %s: %w", *dir, err)
			}
			a.out.line("%s", clean(name))
		}
		a.out.field("head", "%s", headText(got.GetHead()))
		return nil
	}
	return cmd
}

// headText is a head as it is published: the number of its event, and its link.
func headText(h *operatorv1.ChainHead) string { return fmt.Sprintf("%d:%s", h.GetSeq(), h.GetLink()) }

func (a *app) postmortemVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify [--head SEQ:LINK]",
		Short: "Check that no post-mortem was altered since a head of their chain was published",
		Long: `Follow the chain of all post-mortems' events from its beginning, and compare each
record with what its events say. With --head, a head that was kept elsewhere (an
export, a metric, a webhook, an earlier verify), an alteration is found even if
everything after it was hashed anew.`,
		Example: `  specctl postmortem verify
  specctl postmortem verify --head 12:9f86d081…`,
		Args: noArgs,
	}
	output := outputFlag(cmd, asTable, asJSON)
	head := cmd.Flags().String("head", "", "a head that was kept elsewhere")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		request := &operatorv1.VerifyRequest{}
		if *head != "" {
			number, link, ok := strings.Cut(*head, ":")
			seq, err := strconv.ParseUint(number, 10, 64)
			if !ok || err != nil || len(link) != 64 {
				return usageError(cmd, "--head %q is not SEQ:LINK, as export and verify print it", *head)
			}
			request.Witness = &operatorv1.ChainHead{Seq: seq, Link: link}
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		got, err := ask(cmd.Context(), c, client.Verify, request, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			if err := a.out.json(got); err != nil {
				return err
			}
		}
		if got.GetDamage() != "" {
			return fmt.Errorf("the records were altered: %s\ncompare the control plane's data with a backup, and with exports of the records", got.GetDamage())
		}
		if format != asJSON {
			a.out.line("%s whole: the chain has %d events", plural(int(got.GetRecords()), "record is", "records are"), got.GetHead().GetSeq())
			a.out.field("head", "%s", headText(got.GetHead()))
		}
		return nil
	}
	return cmd
}
