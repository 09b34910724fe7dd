package archive_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry"

	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/versions"
)

var morning = time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)

func attach(t testing.TB, a *archive.Archive, p versions.Packed, kind string, at time.Time, data string) versions.Attachment {
	t.Helper()
	x, err := versions.NewAttachment(p, kind, versions.MediaTypeJSON, "", []byte(data), "ada@laptop", at)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.PutAttachment(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	return x
}

func TestAttachmentsAreFoundByTheirVersion(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	one, two := pack(t, "customer-service", "2.0.3", "one"), pack(t, "customer-service", "2.1.0", "two")
	put(t, a, one)
	put(t, a, two)
	later := attach(t, a, one, versions.TypeConformance, morning.Add(time.Hour), `{"suite":"a"}`)
	sooner := attach(t, a, one, versions.TypeSignature, morning, `{"payload":""}`)
	other := attach(t, a, two, versions.TypeSignature, morning, `{"payload":""}`)
	attach(t, a, one, versions.TypeSignature, morning, `{"payload":""}`) // again: nothing new

	for _, x := range []struct {
		of   versions.Packed
		kind string
		want []versions.Attachment
	}{
		{one, "", []versions.Attachment{sooner, later}},
		{one, versions.TypeSignature, []versions.Attachment{sooner}},
		{one, versions.TypeConformance, []versions.Attachment{later}},
		{two, "", []versions.Attachment{other}},
		{two, versions.TypeConformance, nil},
	} {
		got, err := open(t, dir).Attachments(t.Context(), x.of.Digest, x.kind)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(x.want, got, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("attachments of %s of type %q (-want +got):\n%s", x.of.Ref(), x.kind, d)
		}
	}
	// A version stays what it was, and its tag stays its own.
	checkHolds(t, a, one)
	if got, err := a.Resolve(t.Context(), one.Ref()); err != nil || got != one.Digest {
		t.Errorf("%s is %s, %v; want %s", one.Ref(), got, err, one.Digest)
	}
}

func TestOtherToolsFindAttachments(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	p := pack(t, "customer-service", "2.0.3", "one")
	put(t, a, p)
	x := attach(t, a, p, versions.TypeSignature, morning, `{"payload":""}`)

	store, err := oci.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	subject, err := store.Resolve(t.Context(), archive.Tag(p.Ref()))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	referrers, err := registry.Referrers(t.Context(), store, subject, versions.TypeSignature)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range referrers {
		found = append(found, r.Digest.String())
	}
	if d := cmp.Diff([]string{x.Digest}, found); d != "" {
		t.Errorf("referrers that oras finds (-want +got):\n%s", d)
	}
}

// oras attach writes an entry into index.json that does not say what it refers to.
func TestAttachmentsThatOtherToolsEnteredAreFound(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	p := pack(t, "customer-service", "2.0.3", "one")
	put(t, a, p)
	x := attach(t, a, p, versions.TypeSignature, morning, `{"payload":""}`)
	index := dir + "/" + ocispec.ImageIndexFile
	data, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	stripped := strings.Replace(string(data), fmt.Sprintf(`"annotations":{"org.specproxy.subject":%q},`, p.Digest), "", 1)
	if stripped == string(data) {
		t.Fatalf("the index names no subject: %s", data)
	}
	if err := os.WriteFile(index, []byte(stripped), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, dir).Attachments(t.Context(), p.Digest, "")
	if err != nil || len(got) != 1 || got[0].Digest != x.Digest {
		t.Errorf("found %v, %v; want %s", got, err, x.Digest)
	}
}

func TestDamagedAttachmentsAreNotMistakenForNone(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	p := pack(t, "customer-service", "2.0.3", "one")
	put(t, a, p)
	x := attach(t, a, p, versions.TypeSignature, morning, `{"payload":""}`)
	for _, digest := range []string{x.Digest, x.Blob().Digest} {
		damage(t, dir, digest, []byte("rot"))
		damaged := (*archive.Damaged)(nil)
		if got, err := a.Attachments(t.Context(), p.Digest, ""); !errors.As(err, &damaged) {
			t.Errorf("with %s damaged: %v, %v; want the damage", digest, got, err)
		}
		if err := a.PutAttachment(t.Context(), x); err != nil {
			t.Fatal(err)
		}
		if got, err := a.Attachments(t.Context(), p.Digest, ""); err != nil || len(got) != 1 {
			t.Errorf("after storing it again: %v, %v", got, err)
		}
	}
}

func TestAttachmentsAreRefused(t *testing.T) {
	a := open(t, t.TempDir())
	p := pack(t, "customer-service", "2.0.3", "one")
	x, err := versions.NewAttachment(p, versions.TypeSignature, versions.MediaTypeEnvelope, "", []byte("{}"), "ada", morning)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.PutAttachment(t.Context(), x); !errors.Is(err, archive.ErrNotFound) {
		t.Errorf("an attachment of a version that is not there: %v", err)
	}
	put(t, a, p)
	forged := x
	forged.Data = []byte("[]")
	if err := a.PutAttachment(t.Context(), forged); err == nil {
		t.Error("content that is not the named one was stored")
	}
	forged = x
	forged.Subject = versions.DigestOf(nil)
	if err := a.PutAttachment(t.Context(), forged); err == nil {
		t.Error("an attachment was stored under another subject than its own")
	}
	for name, bad := range map[string]struct {
		kind string
		size int
	}{
		"of an unknown type": {"application/x", 1}, "empty": {versions.TypeConformance, 0},
		"a large report":    {versions.TypeConformance, versions.MaxAttachmentSize + 1},
		"a large signature": {versions.TypeSignature, versions.MaxSignatureSize + 1},
	} {
		if _, err := versions.NewAttachment(p, bad.kind, "text/plain", "", make([]byte, bad.size), "", morning); err == nil {
			t.Errorf("%s: made", name)
		}
	}
}
