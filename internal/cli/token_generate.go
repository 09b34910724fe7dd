package cli

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/specproxy/specproxy/internal/roster"
)

func (a *app) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "token",
		Short:   "Make tokens that say who somebody is and what they may do",
		Example: "  specctl token generate alice --role operator",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError(cmd, "say what to do: specctl token generate NAME --role ROLE")
		},
	}
	var roles []string
	for _, r := range roster.Roles() {
		roles = append(roles, string(r))
	}
	generate := &cobra.Command{
		Use:   "generate NAME --role ROLE",
		Short: "Make a token: NAME.token, which its bearer keeps, and a line for xds --tokens",
		Long: `Make a token for a person or a program. NAME.token is for its bearer alone; the line
that is printed goes into the file of xds --tokens, and tells nobody the token. The
control plane reads that file again when it changes, so taking the line out takes the
token away. A file that exists is never overwritten.

  viewer      reads everything, excerpts and keys included
  automation  changes what runs, but not what only a person may: CI, GitOps
  operator    changes what runs, and everything of a post-mortem: on-call
  admin       also overrides post-mortems, sets policies, erases, reads secrets`,
		Example: `  specctl token generate alice --role operator
  specctl token generate ci --role automation >> tokens.yaml
  specctl --token-file alice.token rollback customer-service`,
		Args: exactly(1, "a name, which the audit shows"),
	}
	role := generate.Flags().String("role", "", "what its bearer may do: "+strings.Join(roles, ", "))
	generate.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		if err := roster.CheckName(name); err != nil {
			return usageError(cmd, "%v", err)
		}
		if *role == "" {
			return usageError(cmd, "say what %s may do: --role %s", name, strings.Join(roles, "|"))
		}
		may, err := roster.ParseRole(*role)
		if err != nil {
			return usageError(cmd, "--role: %v", err)
		}
		raw := make([]byte, 32)
		if _, err := rand.Read(raw); err != nil {
			return err
		}
		secret := "spx_" + hex.EncodeToString(raw)
		if err := writeNew(name+".token", []byte(secret+"\n"), 0o600); err != nil {
			return err
		}
		fmt.Fprintf(a.env.Stderr, "specctl: %s.token is for its bearer alone; the line goes below \"tokens:\" in the file of xds --tokens\n", name)
		a.out.line("%s", roster.Line(name, may, secret))
		return nil
	}
	cmd.AddCommand(generate)
	return cmd
}
