package cli

import (
	"encoding/json"
	"strings"

	"github.com/spf13/cobra"

	"github.com/specproxy/specproxy/internal/specdiff"
	"github.com/specproxy/specproxy/internal/versions"
)

func (a *app) diffCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff REF [REF|VERSION]",
		Short: "Say what changed between two versions",
		Long: `Say what changed from one version to another: in plain words (contract, limits,
tools, runtime), field by field, and document by document as unified text. The
second may be a version alone; without it, the change since what the version
was derived from is shown.

` + refHelp,
		Example: `  specctl diff customer-service:2.0.3 2.1.0
  specctl diff customer-service:previous latest-good
  specctl diff customer-service:2.1.0 -o json | jq .summary`,
		Args: between(1, 2, "one REF or two"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	brief := cmd.Flags().Bool("brief", false, "only the plain words and which documents changed")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		from, to, err := a.sides(cmd, args)
		if err != nil {
			return err
		}
		d := specdiff.Compare(from, to)
		if format == asJSON {
			raw, err := json.Marshal(d)
			if err != nil {
				return err
			}
			return a.out.rawJSON(raw)
		}
		a.printDiff(d, *brief)
		return nil
	}
	return cmd
}

// sides gets the two versions that are to be compared, older first as typed.
func (a *app) sides(cmd *cobra.Command, args []string) (from, to versions.Packed, err error) {
	first, err := parseReference(args[0])
	if err != nil {
		return from, to, usageError(cmd, "%v", err)
	}
	var second reference
	if len(args) == 2 {
		if strings.ContainsAny(args[1], ":@") && !strings.HasPrefix(args[1], "sha256:") {
			second, err = parseReference(args[1])
		} else {
			second, err = parseWhat(first.spec, args[1])
		}
		if err != nil {
			return from, to, usageError(cmd, "%v", err)
		}
		if second.spec == "" && !strings.HasPrefix(second.what, "sha256:") {
			return from, to, usageError(cmd, "%q names no spec: write it as name:%s", args[1], args[1])
		}
	}
	c, err := a.connect()
	if err != nil {
		return from, to, err
	}
	get := func(r reference) (versions.Packed, error) {
		ref, err := a.resolve(cmd.Context(), c, r)
		if err != nil {
			return versions.Packed{}, err
		}
		packed, _, err := a.fetch(cmd.Context(), c, ref, false)
		return packed, err
	}
	if from, err = get(first); err != nil {
		return from, to, err
	}
	if len(args) == 2 {
		to, err = get(second)
		return from, to, err
	}
	if len(from.Manifest.Parents) == 0 {
		return from, to, usageError(cmd, "%s names no parents in its spec.yaml: say what to compare it with", from.Ref())
	}
	to = from
	from, err = get(reference{spec: to.Manifest.Name, what: to.Manifest.Parents[0]})
	return from, to, err
}

func (a *app) printDiff(d specdiff.Diff, brief bool) {
	name := func(s specdiff.Side) string { return s.Spec + ":" + s.Version }
	a.out.heading("%s -> %s", name(d.From), name(d.To))
	if d.Same() {
		a.out.line("  nothing changed: they are the same, %s", d.To.Digest)
		return
	}
	if len(d.Summary) == 0 {
		a.out.line("  nothing that matters to executions, limits, tools or documents")
	}
	for _, p := range d.Summary {
		a.out.field(string(p.Topic), "%s", p.Text)
	}
	if brief {
		return
	}
	if len(d.Fields) > 0 {
		a.out.line("")
		t := newTable("FIELD", "BEFORE", "AFTER")
		for _, f := range d.Fields {
			t.row(f.Path, orNone(f.Before), orNone(f.After))
		}
		a.out.print(t, "")
	}
	for _, doc := range d.Documents {
		a.out.line("")
		a.printUnified(doc)
	}
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

// printUnified prints a document's change in the colours of other diff tools. Lines are never folded: they are the document's.
func (a *app) printUnified(doc specdiff.Document) {
	if doc.Opaque != "" {
		a.out.heading("%s %s (%s)", doc.Path, doc.Status, doc.Opaque)
		return
	}
	for i, line := range strings.Split(strings.TrimSuffix(doc.Unified, "\n"), "\n") {
		s := plain
		switch {
		case i < 2:
			s = bold
		case strings.HasPrefix(line, "+"):
			s = green
		case strings.HasPrefix(line, "-"):
			s = red
		case strings.HasPrefix(line, "@@"):
			s = dim
		}
		a.out.line("%s", a.out.paint(s, clean(line)))
	}
}

// between wants from least to most arguments, described by what.
func between(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usageError(cmd, "%s wants %s, got %s", cmd.CommandPath(), what, plural(len(args), "argument", "arguments"))
		}
		return nil
	}
}
