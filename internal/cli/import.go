package cli

import (
	"github.com/spf13/cobra"
)

func (a *app) importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import FILE | --from-archive",
		Short: "Take in versions from a file, or that are stored but not on record",
		Long: `Take in the versions of a file that specctl export or another OCI tool wrote (a
tarball of an OCI image layout), with their signatures and test reports, as
strictly as if they were published here. They come in as published. If one of
them conflicts with what is here, every conflict is shown and nothing imported.

With --from-archive, make records of the versions that the control plane's archive holds and no
record names: after the loss of etcd's data, or when another tool copied them
into the registry. They come in as published; what became of them was in the
lost records. A name that the archive holds with several contents is shown,
and taken only as --choose says.`,
		Example: `  specctl import refunds.tar
  specctl import --from-archive --dry-run
  specctl import --from-archive
  specctl import --from-archive --choose customer-service:2.0.3@sha256:…`,
		Args: between(0, 1, "one file, or --from-archive"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	fromArchive := cmd.Flags().Bool("from-archive", false, "from the control plane's own archive")
	choose := cmd.Flags().StringSlice("choose", nil, "NAME:VERSION@sha256:… to take where there are several")
	dryRun := cmd.Flags().Bool("dry-run", false, "only say what would happen")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		if *fromArchive == (len(args) == 1) || len(args) == 1 && len(*choose) > 0 {
			return usageError(cmd, "%s wants a file, or --from-archive (and only then --choose)", cmd.CommandPath())
		}
		if len(args) == 1 {
			return a.importFile(cmd.Context(), args[0], *dryRun, format)
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		return a.importArchive(cmd.Context(), c, *choose, *dryRun, format)
	}
	return cmd
}
