package cli

import (
	"context"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/versions"
)

// refHelp explains what a REF is, for commands that take one.
const refHelp = `A REF is name:version, or a name for one: name:latest-good, name:previous (what
carried the traffic before), name:2.0 (its highest version that was ever good),
name@sha256:… or @sha256:…. What it means is printed before anything happens.`

// reference is a REF as it was typed.
type reference struct {
	spec string
	// what is a version, or what the control plane knows how to resolve.
	what string
}

func (r reference) String() string {
	if r.spec == "" {
		return "@" + r.what
	}
	return r.spec + ":" + r.what
}

// exact says that it names one version already.
func (r reference) exact() bool { return r.spec != "" && versions.CheckVersion(r.what) == nil }

// parseReference reads a REF.
func parseReference(arg string) (reference, error) {
	spec, what, byDigest := strings.Cut(arg, "@")
	if !byDigest {
		var named bool
		if spec, what, named = strings.Cut(arg, ":"); !named || what == "" {
			_, err := versions.ParseRef(arg)
			return reference{}, err
		}
	}
	if byDigest && !strings.HasPrefix(what, "sha256:") {
		return reference{}, fmt.Errorf("%q: a digest begins with sha256: and digits", arg)
	}
	if spec != "" || !byDigest {
		if err := versions.CheckName(spec); err != nil {
			return reference{}, fmt.Errorf("%q: %w", arg, err)
		}
	}
	return parseWhat(spec, what)
}

// parseWhat refuses what looks like a version and is none, with the reason; what else it may be the control plane knows.
func parseWhat(spec, what string) (reference, error) {
	r := reference{spec: spec, what: what}
	if r.exact() || strings.HasPrefix(what, "sha256:") || what == "latest-good" || what == "previous" {
		return r, nil
	}
	if strings.Count(what, ".") < 2 && strings.Trim(what, "0123456789.") == "" {
		return r, nil
	}
	if err := versions.CheckVersion(what); err != nil {
		return r, fmt.Errorf("%q: %w", r.String(), err)
	}
	return r, nil
}

// resolve says which version a REF means. Where it is not plain, it asks and tells, on standard error: standard output may be a document's.
func (a *app) resolve(ctx context.Context, c *conn, r reference) (versions.Ref, error) {
	if r.exact() {
		return versions.Ref{Spec: r.spec, Version: r.what}, nil
	}
	found, err := ask(ctx, c, client.Resolve, &operatorv1.ResolveRequest{Spec: r.spec, Reference: r.what}, 0)
	if err != nil {
		return versions.Ref{}, err
	}
	ref := versions.Ref{Spec: found.GetSpec(), Version: found.GetVersion()}
	if err := ref.Check(); err != nil {
		return ref, fmt.Errorf("the control plane says that %s is %q: %w", r, ref, err)
	}
	fmt.Fprintf(a.env.Stderr, "%s is %s: %s\n", r, ref, clean(found.GetReason()))
	return ref, nil
}

// versionHelp ends the help of flags that take the version of a spec which is named already.
const versionHelp = ", or a name for one such as 2.0 or @sha256:…"

// resolveVersions is resolve for versions of one spec, each of which may also be written as a whole REF; what is empty stays so. Each is
// replaced by what it means.
func (a *app) resolveVersions(cmd *cobra.Command, c *conn, spec string, flags ...*string) error {
	for _, v := range flags {
		if *v == "" {
			continue
		}
		what := strings.TrimPrefix(*v, spec+":")
		if at, ok := strings.CutPrefix(*v, spec+"@"); ok {
			what = at
		}
		r, err := parseWhat(spec, strings.TrimPrefix(what, "@"))
		if err != nil {
			return usageError(cmd, "%v", err)
		}
		ref, err := a.resolve(cmd.Context(), c, r)
		if err != nil {
			return err
		}
		*v = ref.Version
	}
	return nil
}

// fetch gets a version with everything in it, and verifies every byte: what is shown, signed or exported is what its digest names.
func (a *app) fetch(ctx context.Context, c *conn, ref versions.Ref, attachments bool) (versions.Packed, *operatorv1.GetVersionResponse, error) {
	got, err := ask(ctx, c, client.GetVersion,
		&operatorv1.GetVersionRequest{Spec: ref.Spec, Version: ref.Version, Content: true, AttachmentContent: attachments}, 0)
	if err != nil {
		return versions.Packed{}, nil, err
	}
	byDigest := map[string][]byte{}
	for _, f := range got.GetFiles() {
		byDigest[versions.DigestOf(f.GetContent())] = f.GetContent()
	}
	packed, err := versions.Unpack(got.GetImage(), func(digest string) ([]byte, error) {
		if data, ok := byDigest[digest]; ok {
			return data, nil
		}
		return nil, fs.ErrNotExist
	})
	if err != nil {
		return packed, got, fmt.Errorf("%s as the control plane sent it: %w", ref, err)
	}
	if packed.Ref() != ref || packed.Digest != got.GetVersion().GetDigest() {
		return packed, got, fmt.Errorf("the control plane sent %s %s instead of %s %s", packed.Ref(), packed.Digest, ref, got.GetVersion().GetDigest())
	}
	if attachments && got.GetAttachmentsUnread() != "" {
		return packed, got, fmt.Errorf("what is attached to %s cannot be read: %s\nsigning or attaching the same again repairs it", ref, got.GetAttachmentsUnread())
	}
	return packed, got, nil
}
