package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/versions"
)

const (
	// archivePage is how many versions one request reads, archiveWait how long that may take: a registry may be far, and documents large.
	archivePage = 50
	archiveWait = 5 * time.Minute
)

// whole is the state of a version whose every byte is what its record names.
const whole = "whole"

func (a *app) verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify [SPEC[:VERSION] | --key PUB REF]",
		Short: "Read versions from the archive and report damage, or check a signature",
		Long: `Read versions from the archive itself, every byte of them, and report those
that are not what their records name: damaged, missing, or under a tag that
gives other tools something else. A damaged document never reaches an agent;
this finds it before it is needed. Exits 1 if anything is not whole.

With --key, read one version and check its signatures here, against the given
public keys: exits 0 if one of them signed it. A REF may then stand for it.`,
		Example: `  specctl verify --all
  specctl verify customer-service
  specctl verify customer-service:2.0.3 -o json | jq -r '.checks[].state'
  specctl verify customer-service:2.1.0 --key release.pub`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError(cmd, "%s wants one spec or version, got %s", cmd.CommandPath(), plural(len(args), "argument", "arguments"))
			}
			return nil
		},
	}
	output := outputFlag(cmd, asTable, asJSON)
	all := cmd.Flags().Bool("all", false, "every version of every spec")
	keys := cmd.Flags().StringArray("key", nil, "PEM file with a public key that may have signed the version (may be repeated)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		if len(*keys) > 0 {
			return a.verifyKeys(cmd, args, *keys, format)
		}
		if *all == (len(args) == 1) {
			return usageError(cmd, "%s wants one spec or version, or --all", cmd.CommandPath())
		}
		request := &operatorv1.VerifyArchiveRequest{PageSize: archivePage}
		if len(args) == 1 {
			request.Spec, request.Version, _ = strings.Cut(args[0], ":")
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		return a.verifyArchive(cmd.Context(), c, request, format)
	}
	return cmd
}

// verifyArchive reads page after page, and prints what is wrong as soon as it is known.
func (a *app) verifyArchive(ctx context.Context, c *conn, request *operatorv1.VerifyArchiveRequest, format string) error {
	var total operatorv1.VerifyArchiveResponse
	bad := 0
	for {
		page, err := ask(ctx, c, client.VerifyArchive, request, archiveWait)
		if err != nil {
			return err
		}
		total.Archive = page.GetArchive()
		total.Checks = append(total.Checks, page.GetChecks()...)
		for _, check := range page.GetChecks() {
			if check.GetState() == whole {
				continue
			}
			bad++
			if format == asTable {
				a.out.styled(red, check.GetState(), "%s:%s: %s", check.GetSpec(), check.GetVersion(), check.GetReason())
				a.out.field("next", "%s", check.GetNext())
			}
		}
		if page.GetNextPageToken() == "" {
			break
		}
		request.PageToken = page.GetNextPageToken()
	}
	if format == asJSON {
		if err := a.out.json(&total); err != nil {
			return err
		}
	} else {
		var documents, size uint64
		for _, check := range total.GetChecks() {
			documents += uint64(check.GetDocuments())
			size += check.GetBytes()
		}
		a.out.line("%s in %s: %s whole, %d not; %s, %s read", plural(len(total.GetChecks()), "version", "versions"), clean(total.GetArchive()),
			fmt.Sprint(len(total.GetChecks())-bad), bad, plural(int(documents), "document", "documents"), byteCount(size))
	}
	if bad > 0 {
		return &failure{code: ExitFailed, err: fmt.Errorf("%s not whole in the archive", plural(bad, "version is", "versions are"))}
	}
	return nil
}

// byteCount writes a number of bytes with its unit.
func byteCount(n uint64) string {
	switch {
	case n < 1<<10:
		return plural(int(n), "byte", "bytes")
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// importArchive asks the control plane to make records of what its archive holds, page after page.
func (a *app) importArchive(ctx context.Context, c *conn, choose []string, dryRun bool, format string) error {
	request := &operatorv1.ImportArchiveRequest{DryRun: dryRun, PageSize: archivePage, Choose: choose}
	var total operatorv1.ImportArchiveResponse
	count := map[string]int{}
	for {
		page, err := ask(ctx, c, client.ImportArchive, request, archiveWait)
		if err != nil {
			return err
		}
		total.Archive = page.GetArchive()
		total.Versions = append(total.Versions, page.GetVersions()...)
		for _, v := range page.GetVersions() {
			if count[v.GetState()]++; format == asTable {
				a.printImported(v)
			}
		}
		if page.GetNextPageToken() == "" {
			break
		}
		request.PageToken = page.GetNextPageToken()
	}
	if format == asJSON {
		if err := a.out.json(&total); err != nil {
			return err
		}
	} else {
		verb := "imported"
		if dryRun {
			verb = "would be imported"
		}
		a.out.line("%s: %d %s, %d known, %s, %d damaged", clean(total.GetArchive()), count["imported"], verb, count["known"],
			plural(count["conflict"], "conflict", "conflicts"), count["damaged"])
	}
	if count["conflict"]+count["damaged"] > 0 {
		return &failure{code: ExitFailed, err: errors.New("not everything that the archive holds could be taken; what could, was")}
	}
	return nil
}

func (a *app) printImported(v *operatorv1.ImportedVersion) {
	name := versions.Ref{Spec: v.GetSpec(), Version: v.GetVersion()}.String()
	if v.GetSpec() == "" {
		name = strings.Join(v.GetDigests(), " ")
	}
	switch v.GetState() {
	case "imported":
		a.out.line("%s %s", clean(name), clean(v.GetDigest()))
	case "known":
	default:
		a.out.styled(red, v.GetState(), "%s: %s", name, v.GetReason())
		a.out.field("next", "%s", v.GetNext())
	}
}
