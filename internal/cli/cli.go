// Package cli is specctl: the operators' API as commands that people type in a hurry and programs run unattended.
//
// Invariants:
//   - A command changes something at most once. It asks the control plane to decide; it never computes a change from what it read.
//   - Nothing prompts. Every read has -o json with the API's own field names. Tables fit in 80 columns.
//   - Exit codes: 0 done (also: had been done before), 1 refused or failed, 2 wrong usage, 3 committed but not yet proven.
//   - Every error names the object, the reason and the next command. Text that others wrote is printed without control characters.
//   - A token never travels over plain HTTP to another machine.
//
// The package reads no environment, clock or signal by itself: Env brings them.
package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// Exit codes of every command.
const (
	ExitDone     = 0
	ExitFailed   = 1
	ExitUsage    = 2
	ExitUnproven = 3
)

// Env is the world that a command runs in.
type Env struct {
	Stdout, Stderr io.Writer
	// Getenv reads one environment variable, "" if it is unset.
	Getenv func(string) string
	// Now is the wall clock, for ages. Time-outs do not use it.
	Now func() time.Time
	// Terminal says that Stdout is one: then there is colour, lines are folded and a rollback's cure is watched.
	Terminal bool
	// Width of the terminal in columns; 0 means 80.
	Width int
	// Actor is who is recorded, "user@host".
	Actor string
	// Version of the binary.
	Version string
}

// app is what the commands of one run share.
type app struct {
	env       Env
	out       *printer
	servers   string
	tokenFile string
	caFile    string
}

// Run carries out one command line, without the program's name, and returns the exit code. When ctx ends, a command that watches ends
// well; one that waits for an effect ends with ExitUnproven.
func Run(ctx context.Context, env Env, args []string) int {
	a := &app{env: env, out: newPrinter(env)}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if err != nil {
		report(env.Stderr, err)
	}
	return exitCode(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "specctl",
		Short: "Deploy, shift and roll back versions of agent specifications",
		Long: `specctl deploys, shifts and rolls back versions of agent specifications.

Without a command it shows the fleet, trouble first: success by version, what
changed last and when, and the command to type next.`,
		Example: `  specctl
  specctl rollback customer-service
  specctl -o json | jq -r '.specs[] | select(.trouble != []) | .name'`,
		Args:          noArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	a.fleetCommand(root)
	flags := root.PersistentFlags()
	flags.StringVar(&a.servers, "server", "", "control planes, comma separated, tried in order (SPECPROXY_SERVER; default "+defaultServer+")")
	flags.StringVar(&a.tokenFile, "token-file", "", "file with the bearer token (SPECPROXY_TOKEN; SPECPROXY_DATA_DIR/admin.token; ./data/admin.token)")
	flags.StringVar(&a.caFile, "ca-file", "", "PEM file with the certificate authorities of https servers (SPECPROXY_CA_FILE)")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, "%v", err) })
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages", ".FlagUsagesWrapped 80"))
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		a.publishCommand(), a.lintCommand(), a.verifyCommand(), a.importCommand(), a.exportCommand(),
		a.showCommand(), a.catCommand(), a.diffCommand(), a.lineageCommand(),
		a.tokenCommand(), a.keyCommand(), a.signCommand(), a.attachCommand(), a.policyCommand(),
		a.deployCommand(), a.planCommand(), a.canaryCommand(), a.weightsCommand(), a.targetCommand(), a.shadowCommand(), a.rollbackCommand(), a.unfreezeCommand(),
		a.getCommand(), a.versionsCommand(), a.executionsCommand(), a.executionCommand(), a.drainCommand(), a.effectsCommand(), a.proxiesCommand(),
		a.postmortemCommand(), a.handoverCommand(), a.statsCommand(), a.versionCommand(),
	)
	return root
}

const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{.UsageString}}
Exit codes:
  0  done, or had been done before
  1  refused or failed; nothing is half done
  2  wrong usage
  3  committed, but not yet proven to have taken effect
`

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of specctl",
		Example: "  specctl version",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			a.out.line("specctl %s", a.env.Version)
			return nil
		},
	}
}

// noArgs refuses arguments; for a command with subcommands it names the nearest one.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasSubCommands() {
		return usageError(cmd, "%s takes no argument, got %q", cmd.CommandPath(), args[0])
	}
	hint := ""
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	}
	return usageError(cmd, "unknown command %q%s", args[0], hint)
}

// exactly wants n arguments, described by what.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError(cmd, "%s wants %s, got %s", cmd.CommandPath(), what, plural(len(args), "argument", "arguments"))
		}
		return nil
	}
}

// atLeast wants n arguments or more, described by what.
func atLeast(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return usageError(cmd, "%s wants %s, got %s", cmd.CommandPath(), what, plural(len(args), "argument", "arguments"))
		}
		return nil
	}
}
