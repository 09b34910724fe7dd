package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/signing"
	"github.com/specproxy/specproxy/internal/versions"
)

func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "key",
		Short:   "Make keys that sign versions",
		Example: "  specctl key generate release",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError(cmd, "say what to do: specctl key generate NAME")
		},
	}
	generate := &cobra.Command{
		Use:   "generate NAME",
		Short: "Make a key pair: NAME.key, which signs, and NAME.pub, which checks",
		Long: `Make a key pair in two PEM files: NAME.key, which signs and which nobody else
may read, and NAME.pub, which checks signatures and is for everybody. Files that
exist are never overwritten.`,
		Example: `  specctl key generate release
  specctl key generate release --kind ecdsa-p256`,
		Args: exactly(1, "a name for the files"),
	}
	kind := generate.Flags().String("kind", signing.Ed25519, "of key: "+signing.Ed25519+" or "+signing.ECDSAP256)
	generate.RunE = func(cmd *cobra.Command, args []string) error {
		private, public, err := signing.GenerateKey(*kind)
		if err != nil {
			return usageError(cmd, "%v", err)
		}
		key, err := signing.ParsePublicKey(public)
		if err != nil {
			return err
		}
		if err := writeNew(args[0]+".key", private, 0o600); err != nil {
			return err
		}
		if err := writeNew(args[0]+".pub", public, 0o644); err != nil {
			return err
		}
		a.out.line("%s", key.ID)
		a.out.field("signs", "%s.key: keep it to yourself", args[0])
		a.out.field("checks", "%s.pub: specctl policy set SPEC --require-signature %s.pub", args[0], args[0])
		return nil
	}
	cmd.AddCommand(generate)
	return cmd
}

// writeNew writes a file that is not there yet.
func writeNew(name string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists: it is not overwritten\nchoose another name, or move it away", name)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// readPublicKey reads a public key's file.
func readPublicKey(name string) (signing.PublicKey, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return signing.PublicKey{}, err
	}
	key, err := signing.ParsePublicKey(text)
	if err != nil {
		return key, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

func readPublicKeys(names []string) ([]signing.PublicKey, error) {
	keys := make([]signing.PublicKey, 0, len(names))
	for _, name := range names {
		key, err := readPublicKey(name)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// readPrivateKey reads a private key that nobody else can read.
func readPrivateKey(name string) (signing.PrivateKey, error) {
	info, err := os.Stat(name)
	if err != nil {
		return signing.PrivateKey{}, err
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return signing.PrivateKey{}, fmt.Errorf("the key %s can be read by others (mode %04o)\nrun: chmod 600 %s", name, mode, name)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return signing.PrivateKey{}, err
	}
	key, err := signing.ParsePrivateKey(text)
	if err != nil {
		return key, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

func (a *app) signCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sign REF --key FILE",
		Short: "Sign a version and attach the signature to it",
		Long: `Sign a version: an in-toto statement about its digest, which covers its
documents, its manifest and its in-flight contract, in a DSSE envelope. The
version is fetched and verified first, the key never leaves this machine, and
the signature is attached to the version in the archive.

` + refHelp,
		Example: `  specctl sign customer-service:2.1.0 --key release.key
  specctl sign customer-service@sha256:2123456789ab --key release.key`,
		Args: exactly(1, "one REF"),
	}
	output := outputFlag(cmd, asTable, asJSON)
	file := cmd.Flags().String("key", "", "PEM file with the private key, ed25519 or ecdsa")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := output()
		if err != nil {
			return err
		}
		r, err := parseReference(args[0])
		if err != nil {
			return usageError(cmd, "%v", err)
		}
		if *file == "" {
			return usageError(cmd, "name the private key: --key FILE; make one with specctl key generate NAME")
		}
		key, err := readPrivateKey(*file)
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		ref, err := a.resolve(cmd.Context(), c, r)
		if err != nil {
			return err
		}
		packed, _, err := a.fetch(cmd.Context(), c, ref, false)
		if err != nil {
			return err
		}
		envelope, err := signing.Sign(cmd.Context(), key, signing.Of(packed))
		if err != nil {
			return err
		}
		attached, err := ask(cmd.Context(), c, client.Attach, &operatorv1.AttachRequest{
			Spec: ref.Spec, Version: ref.Version, VersionDigest: packed.Digest, ArtifactType: versions.TypeSignature, Content: envelope,
		}, 0)
		if err != nil {
			return err
		}
		if format == asJSON {
			return a.out.json(attached)
		}
		a.out.line("%s %s", ref, packed.Digest)
		a.out.field("signed", "by key %s", signing.Short(key.Public.ID))
		if !attached.GetCreated() {
			a.out.field("note", "it had this signature before; nothing changed")
		}
		return nil
	}
	return cmd
}

// verifyKeys is verify --key.
func (a *app) verifyKeys(cmd *cobra.Command, args, files []string, format string) error {
	if len(args) != 1 || format != asTable {
		return usageError(cmd, "--key wants one REF, and prints no %s", asJSON)
	}
	r, err := parseReference(args[0])
	if err != nil {
		return usageError(cmd, "%v", err)
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	return a.verifySignature(cmd.Context(), c, r, files)
}

// verifySignature says which of the keys signed a version: its documents are read and verified, then its signatures are checked here, so that the
// answer does not rest on the control plane's word.
func (a *app) verifySignature(ctx context.Context, c *conn, r reference, files []string) error {
	keys, err := readPublicKeys(files)
	if err != nil {
		return err
	}
	ref, err := a.resolve(ctx, c, r)
	if err != nil {
		return err
	}
	packed, got, err := a.fetch(ctx, c, ref, true)
	if err != nil {
		return err
	}
	a.out.line("%s %s", ref, packed.Digest)
	var why []error
	for _, at := range got.GetAttachments() {
		if at.GetArtifactType() != versions.TypeSignature {
			continue
		}
		key, err := signing.Verify(at.GetContent(), signing.Of(packed), keys)
		if err == nil {
			a.out.field("signed", "by key %s, attached %s by %s", signing.Short(key.ID), a.moment(at.GetAttachedAt()), at.GetAttachedBy())
			a.out.field("covers", "spec.yaml with its in-flight contract, and %s, every byte verified", plural(len(packed.Blobs)-1, "document", "documents"))
			return nil
		}
		why = append(why, err)
	}
	if len(why) == 0 {
		return fmt.Errorf("%s has no signature\nsign it: specctl sign %s --key FILE", ref, ref)
	}
	return fmt.Errorf("%s is not signed by a key that was given\n%w", ref, errors.Join(why...))
}
