package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/archive/bundle"
	"github.com/specproxy/specproxy/internal/versions"
)

// maxReport bounds a report's file.
const maxReport = versions.MaxAttachmentSize

// readBounded reads a file of at most limit bytes.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d MiB: at most that is attached", name, limit>>20)
	}
	return data, nil
}

func attachReport(ref versions.Ref, data []byte, suite string) *operatorv1.AttachRequest {
	return &operatorv1.AttachRequest{Spec: ref.Spec, Version: ref.Version, ArtifactType: versions.TypeConformance, Content: data, Suite: suite}
}

func (a *app) exportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export REF... -f FILE",
		Short: "Write versions into a file, to move them to another control plane",
		Long: `Write versions, with their signatures and test reports, into one file: a tarball
of an OCI image layout, which other OCI tools read too. Standings and
post-mortems stay here: another fleet makes its own experience.

` + refHelp,
		Example: "  specctl export customer-service:2.0.3 customer-service:2.1.0 -f refunds.tar",
		Args:    atLeast(1, "one REF or more"),
	}
	file := cmd.Flags().StringP("file", "f", "", "the file to write; - is standard output")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *file == "" {
			return usageError(cmd, "name the file: -f FILE")
		}
		var all []reference
		for _, arg := range args {
			r, err := parseReference(arg)
			if err != nil {
				return usageError(cmd, "%v", err)
			}
			all = append(all, r)
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		var entries []bundle.Entry
		var seen []versions.Ref
		for _, r := range all {
			ref, err := a.resolve(cmd.Context(), c, r)
			if err != nil {
				return err
			}
			if slices.Contains(seen, ref) {
				continue
			}
			seen = append(seen, ref)
			entry, err := a.entry(cmd.Context(), c, ref)
			if err != nil {
				return err
			}
			entries = append(entries, entry)
		}
		if *file == "-" {
			return bundle.Write(a.env.Stdout, entries)
		}
		if err := writeBundle(*file, entries); err != nil {
			return err
		}
		for _, e := range entries {
			a.out.line("%s %s", e.Version.Ref(), e.Version.Digest)
			if n := len(e.Attachments); n > 0 {
				a.out.field("with", "%s", plural(n, "attachment", "attachments"))
			}
		}
		a.out.line("written to %s; take it in elsewhere with: specctl import %s", *file, *file)
		return nil
	}
	return cmd
}

// entry gets a version with what is attached to it, every byte verified.
func (a *app) entry(ctx context.Context, c *conn, ref versions.Ref) (bundle.Entry, error) {
	packed, got, err := a.fetch(ctx, c, ref, true)
	if err != nil {
		return bundle.Entry{}, err
	}
	entry := bundle.Entry{Version: packed}
	for _, at := range got.GetAttachments() {
		x, err := versions.UnpackAttachment(at.GetImage(), func(string) ([]byte, error) { return at.GetContent(), nil })
		if err != nil {
			return entry, fmt.Errorf("an attachment of %s as the control plane sent it: %w", ref, err)
		}
		entry.Attachments = append(entry.Attachments, x)
	}
	return entry, nil
}

// writeBundle leaves a whole file or none.
func writeBundle(name string, entries []bundle.Entry) error {
	part := name + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(bundle.Write(f, entries), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(part, name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return nil
}

// importFile takes the versions of a file in: all of them or, where one conflicts with what is published, none.
func (a *app) importFile(ctx context.Context, name string, dryRun bool, format string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	in, err := bundle.Read(f, bundle.DefaultLimits)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, what := range in.Ignored {
		fmt.Fprintf(a.env.Stderr, "ignored: %s\n", clean(what))
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	created, err := a.askImport(ctx, c, in.Entries)
	if err != nil {
		return err
	}
	var done imported
	for i, e := range in.Entries {
		v := importedVersion{Spec: e.Version.Manifest.Name, Version: e.Version.Manifest.Version, Digest: e.Version.Digest, Created: created[i], Attachments: len(e.Attachments)}
		if !dryRun {
			if v.NewAttachments, err = a.importEntry(ctx, c, e); err != nil {
				return err
			}
		}
		if format == asTable {
			a.printTaken(v, dryRun)
		}
		done.Versions = append(done.Versions, v)
	}
	if format != asJSON {
		return nil
	}
	raw, err := json.Marshal(done)
	if err != nil {
		return err
	}
	return a.out.rawJSON(raw)
}

// imported is what -o json prints of an import from a file.
type imported struct {
	Versions []importedVersion `json:"versions"`
}

type importedVersion struct {
	Spec    string `json:"spec"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
	// Created says that it was not known here.
	Created        bool `json:"created"`
	Attachments    int  `json:"attachments"`
	NewAttachments int  `json:"newAttachments"`
}

func (a *app) printTaken(v importedVersion, dryRun bool) {
	known := ""
	if !v.Created {
		known = " (known)"
	}
	if dryRun {
		known += " (dry run)"
	}
	a.out.line("%s:%s %s%s", v.Spec, v.Version, v.Digest, known)
	switch {
	case v.Attachments == 0:
	case dryRun:
		a.out.field("with", "%s", plural(v.Attachments, "attachment", "attachments"))
	default:
		a.out.field("with", "%s, %d new", plural(v.Attachments, "attachment", "attachments"), v.NewAttachments)
	}
}

// importEntry takes one version in, and says how many of its attachments were new.
func (a *app) importEntry(ctx context.Context, c *conn, e bundle.Entry) (int, error) {
	if _, err := ask(ctx, c, client.ImportVersion, importOf(e.Version, false), 0); err != nil {
		return 0, err
	}
	added := 0
	for _, at := range e.Attachments {
		attached, err := ask(ctx, c, client.Attach, &operatorv1.AttachRequest{
			Spec: e.Version.Manifest.Name, Version: e.Version.Manifest.Version, VersionDigest: e.Version.Digest, Content: at.Data, Image: at.Image,
		}, 0)
		if err != nil {
			return added, err
		}
		if attached.GetCreated() {
			added++
		}
	}
	return added, nil
}

// askImport asks for each version what would become of it, and shows every conflict before anything is written.
func (a *app) askImport(ctx context.Context, c *conn, entries []bundle.Entry) ([]bool, error) {
	created := make([]bool, len(entries))
	var conflicts []error
	for i, e := range entries {
		answer, err := ask(ctx, c, client.ImportVersion, importOf(e.Version, true), 0)
		switch refused, ok := errors.AsType[*connect.Error](err); {
		case ok && (refused.Code() == connect.CodeAlreadyExists || refused.Code() == connect.CodeFailedPrecondition):
			conflicts = append(conflicts, errors.New(refused.Message()))
		case err != nil:
			return nil, err
		}
		created[i] = answer.GetCreated()
	}
	if len(conflicts) > 0 {
		return nil, fmt.Errorf("nothing was imported: %s\n%w", plural(len(conflicts), "version conflicts with what is here", "versions conflict with what is here"),
			errors.Join(conflicts...))
	}
	return created, nil
}

func importOf(p versions.Packed, dryRun bool) *operatorv1.ImportVersionRequest {
	request := &operatorv1.ImportVersionRequest{Image: p.ManifestBytes, DryRun: dryRun}
	for _, b := range p.Blobs {
		request.Files = append(request.Files, &operatorv1.File{Path: b.Path, Content: b.Data})
	}
	return request
}
