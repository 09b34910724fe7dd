package cli

import (
	"github.com/spf13/cobra"
)

func (a *app) importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import --from-archive",
		Short: "Take in versions that are stored but not on record",
		Long: `Make records of the versions that the control plane's archive holds and no
record names: after the loss of etcd's data, or when another tool copied them
into the registry. They come in as published; what became of them was in the
lost records. A name that the archive holds with several contents is shown,
and taken only as --choose says.`,
		Example: `  specctl import --from-archive --dry-run
  specctl import --from-archive
  specctl import --from-archive --choose customer-service:2.0.3@sha256:…`,
		Args: noArgs,
	}
	output := outputFlag(cmd, asTable, asJSON)
	fromArchive := cmd.Flags().Bool("from-archive", false, "from the control plane's own archive")
	choose := cmd.Flags().StringSlice("choose", nil, "NAME:VERSION@sha256:… to take where there are several")
	dryRun := cmd.Flags().Bool("dry-run", false, "only say what would happen")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		if !*fromArchive {
			return usageError(cmd, "%s wants --from-archive", cmd.CommandPath())
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		return a.importArchive(cmd.Context(), c, *choose, *dryRun, format)
	}
	return cmd
}
