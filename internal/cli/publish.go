package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/rollout"
	"github.com/specproxy/specproxy/internal/versions"
)

func (a *app) publishCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "publish DIR",
		Short: "Publish a folder as one immutable version",
		Long: `Publish a folder, spec.yaml and the documents that it names, as one immutable
version, and print its name and digest. The same folder again changes nothing;
other content under the same name and version is refused.`,
		Example: "  specctl publish examples/refunds/specs/2.0.3",
		Args:    exactly(1, "one folder"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		files, packed, err := load(args[0])
		if err != nil {
			return fmt.Errorf("%w\nnext: correct it, and check it with: specctl lint %s", err, args[0])
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		request := &operatorv1.PublishRequest{Digest: packed.Digest}
		for _, path := range slices.Sorted(maps.Keys(files)) {
			request.Files = append(request.Files, &operatorv1.File{Path: path, Content: files[path]})
		}
		published, err := ask(cmd.Context(), c, client.Publish, request, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(published)
		}
		ref := versions.Ref{Spec: published.GetSpec(), Version: published.GetVersion()}
		a.out.line("%s %s", clean(ref.String()), clean(published.GetDigest()))
		for _, warning := range published.GetWarnings() {
			a.out.styled(red, "warning", "%s", warning)
		}
		if !published.GetCreated() {
			a.out.field("note", "published before with the same content; nothing changed")
		}
		return nil
	}
	return cmd
}

// load reads and checks a version's folder, as publishing does.
func load(folder string) (map[string][]byte, versions.Packed, error) {
	info, err := os.Stat(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, versions.Packed{}, fmt.Errorf("there is no folder %s: give one that holds %s", folder, versions.ManifestPath)
	}
	if err != nil {
		return nil, versions.Packed{}, err
	}
	if !info.IsDir() {
		return nil, versions.Packed{}, fmt.Errorf("%s is a file: give the folder that holds %s", folder, versions.ManifestPath)
	}
	files, err := versions.LoadFolder(os.DirFS(folder))
	if err != nil {
		return nil, versions.Packed{}, fmt.Errorf("%s: %w", folder, err)
	}
	packed, err := versions.Pack(files)
	if err != nil {
		return nil, versions.Packed{}, fmt.Errorf("%s: %w", folder, err)
	}
	return files, packed, nil
}

func (a *app) lintCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "lint DIR",
		Short: "Check a folder without publishing it, and explain its contract and plan",
		Long: `Check a folder as publishing would, without asking a control plane: print its
name, version and digest, and say in words what each rule of its contract means
for executions that run when the version is rolled back. Rules that can never
match are errors; ways in which an execution could go on for ever are warnings. If
the manifest has a plan for a canary (rollout:), segments or a capture section,
they are put in words too.`,
		Example: "  specctl lint examples/refunds/specs/2.1.0",
		Args:    exactly(1, "one folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			_, packed, err := load(args[0])
			if err != nil {
				return err
			}
			m := packed.Manifest
			a.out.line("%s %s", packed.Ref(), packed.Digest)
			for _, blob := range packed.Blobs {
				a.out.field("file", "%s (%d bytes)", blob.Path, len(blob.Data))
			}
			for _, host := range m.Hosts {
				a.out.field("host", "%s", host)
			}
			for _, line := range drain.Explain(m.InFlight) {
				a.out.field("contract", "%s", line)
			}
			if m.Rollout.Declared() {
				plan, err := m.Rollout.Complete()
				if err != nil {
					return err
				}
				a.out.field("rollout", "%s", plan.Summary())
				for _, line := range rollout.Explain(plan) {
					a.out.field("rollout", "%s", line)
				}
			}
			if m.Shadow == versions.ShadowSafe {
				a.out.field("shadow", "it may be sent copies of requests: told x-spec-shadow, its agent leaves the world as it is")
			}
			for _, segment := range m.Segments {
				a.out.field("segment", "%s", segment)
			}
			for _, line := range m.Capture.Words() {
				a.out.field("capture", "%s", line)
			}
			for _, warning := range drain.Strands(m.InFlight) {
				a.out.styled(red, "warning", "%s", warning)
			}
			return nil
		},
	}
}
