package bundle

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"unicode/utf8"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/specproxy/specproxy/internal/versions"
)

// Bundle is what a file holds.
type Bundle struct {
	// Entries in the order of the file's index.
	Entries []Entry
	// Ignored says what else lies in the file, in words.
	Ignored []string
}

// maxIgnored bounds what is said of it.
const maxIgnored = 20

func (b *Bundle) ignore(format string, args ...any) {
	switch len(b.Ignored) {
	case maxIgnored:
		b.Ignored = append(b.Ignored, "and more")
	case maxIgnored + 1:
	default:
		b.Ignored = append(b.Ignored, fmt.Sprintf(format, args...))
	}
}

// Read reads a tarball, not compressed. What is wrong with it is an error that names the file and the reason.
func Read(r io.Reader, limits Limits) (Bundle, error) {
	b := Bundle{}
	files, err := b.unpack(r, limits)
	if err != nil {
		return Bundle{}, err
	}
	if err := b.index(files); err != nil {
		return Bundle{}, err
	}
	if len(b.Entries) == 0 {
		return Bundle{}, errors.New("the file holds no version of a spec")
	}
	return b, nil
}

var blobName = regexp.MustCompile(`^blobs/sha256/[0-9a-f]{64}$`)

// unpack reads the files that a layout consists of, by name; blobs are known to be what their names say.
func (b *Bundle) unpack(r io.Reader, limits Limits) (map[string][]byte, error) {
	buffered := bufio.NewReader(r)
	if magic, err := buffered.Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return nil, errors.New("the file is compressed: unpack it first, with gunzip")
	}
	t := tar.NewReader(buffered)
	files := map[string][]byte{}
	room := limits.Size
	for count := 0; ; count++ {
		header, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil && count == 0 {
			return nil, fmt.Errorf("the file is no tarball, or cut off at its beginning: %w", err)
		}
		if err != nil {
			return nil, cut(err, "after %d files", count)
		}
		if count >= limits.Files {
			return nil, fmt.Errorf("the file holds more than %d files: export fewer versions at a time", limits.Files)
		}
		name, err := entryName(header)
		if err != nil {
			return nil, err
		}
		known := name == ocispec.ImageLayoutFile || name == ocispec.ImageIndexFile || blobName.MatchString(name)
		switch {
		case header.Typeflag == tar.TypeDir || header.Typeflag == tar.TypeXGlobalHeader:
			continue
		case header.Typeflag != tar.TypeReg:
			return nil, fmt.Errorf("%q is no plain file (type %q): a layout holds neither links nor devices", name, header.Typeflag)
		case !known:
			b.ignore("%q is no part of an OCI image layout", name)
			continue
		}
		if _, twice := files[name]; twice {
			return nil, fmt.Errorf("%q is in the file twice", name)
		}
		if header.Size > versions.MaxVersionSize {
			return nil, fmt.Errorf("%q has %d bytes: at most %d MiB", name, header.Size, versions.MaxVersionSize>>20)
		}
		if room -= header.Size; header.Size < 0 || room < 0 {
			return nil, fmt.Errorf("the file holds more than %d MiB: export fewer versions at a time", limits.Size>>20)
		}
		data, err := io.ReadAll(io.LimitReader(t, header.Size))
		if err != nil {
			return nil, cut(err, "in %q", name)
		}
		if want, isBlob := strings.CutPrefix(name, blobFolder); isBlob {
			if got := versions.DigestOf(data); got != "sha256:"+want {
				return nil, fmt.Errorf("blob sha256:%s is damaged: it has the digest %s", want, got)
			}
		}
		files[name] = data
	}
}

func cut(err error, format string, args ...any) error {
	where := fmt.Sprintf(format, args...)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the file is cut off %s: copy or export it again", where)
	}
	return fmt.Errorf("the file is no tarball, or damaged %s: %w", where, err)
}

// entryName refuses names that no layout has and that only an attack or a mistake has.
func entryName(header *tar.Header) (string, error) {
	name := strings.TrimSuffix(strings.TrimPrefix(header.Name, "./"), "/")
	switch {
	case !utf8.ValidString(header.Name):
		return "", fmt.Errorf("the name %q in the file is not UTF-8", header.Name)
	case name == "" || name == ".":
		return ".", nil
	case strings.HasPrefix(name, "/") || strings.Contains(name, `\`) || !fs.ValidPath(name):
		return "", fmt.Errorf("the name %q in the file leads out of it", header.Name)
	}
	return name, nil
}

// index follows index.json to everything it names.
func (b *Bundle) index(files map[string][]byte) error {
	var layout ocispec.ImageLayout
	if data, ok := files[ocispec.ImageLayoutFile]; !ok {
		return fmt.Errorf("there is no %s in the file: it is no OCI image layout, or cut off", ocispec.ImageLayoutFile)
	} else if err := json.Unmarshal(data, &layout); err != nil || layout.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("%s names the layout version %q, this program knows %q", ocispec.ImageLayoutFile, layout.Version, ocispec.ImageLayoutVersion)
	}
	data, ok := files[ocispec.ImageIndexFile]
	if !ok {
		return fmt.Errorf("there is no %s in the file: it is no OCI image layout, or cut off", ocispec.ImageIndexFile)
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return fmt.Errorf("%s is damaged: %w", ocispec.ImageIndexFile, err)
	}
	blob := func(digest string) ([]byte, error) {
		if data, ok := files[blobFolder+strings.TrimPrefix(digest, "sha256:")]; ok {
			return data, nil
		}
		return nil, fs.ErrNotExist
	}
	c := contents{bundle: b, read: map[string]bool{}, tags: map[string]string{}, names: map[versions.Ref]string{}, position: map[string]int{}}
	for _, entry := range index.Manifests {
		if err := c.add(entry, blob); err != nil {
			return err
		}
	}
	return c.attach()
}

// contents collects what index.json names.
type contents struct {
	bundle      *Bundle
	read        map[string]bool         // digests that were looked at
	tags        map[string]string       // digest by tag
	names       map[versions.Ref]string // digest by name:version
	position    map[string]int          // of the version among the entries, by digest
	attachments []versions.Attachment
}

func (c *contents) add(entry ocispec.Descriptor, blob func(string) ([]byte, error)) error {
	name := entry.Digest.String()
	tag := entry.Annotations[ocispec.AnnotationRefName]
	if other, taken := c.tags[tag]; tag != "" && taken && other != name {
		return fmt.Errorf("the tag %s is given to two versions: %s and %s", tag, other, name)
	}
	c.tags[tag] = name
	if c.read[name] {
		return nil
	}
	c.read[name] = true
	if entry.MediaType != versions.MediaTypeImage {
		c.bundle.ignore("%s is a %q, not a version", name, entry.MediaType)
		return nil
	}
	image, err := blob(name)
	if err != nil {
		return fmt.Errorf("%s is named in the index and not in the file: it is incomplete, or cut off", name)
	}
	var kind struct {
		ArtifactType string `json:"artifactType"`
	}
	if err := json.Unmarshal(image, &kind); err != nil {
		return fmt.Errorf("%s is no OCI image manifest: %w", name, err)
	}
	switch kind.ArtifactType {
	case versions.ArtifactType:
		return c.addVersion(name, tag, image, blob)
	case versions.TypeSignature, versions.TypeConformance:
		at, err := versions.UnpackAttachment(image, blob)
		if err != nil {
			return err
		}
		c.attachments = append(c.attachments, at)
		return nil
	}
	c.bundle.ignore("%s is a %q, not a version", name, kind.ArtifactType)
	return nil
}

func (c *contents) addVersion(digest, tag string, image []byte, blob func(string) ([]byte, error)) error {
	packed, err := versions.Unpack(image, blob)
	if err != nil {
		return err
	}
	ref := packed.Ref()
	if version, ok := strings.CutPrefix(tag, ref.Spec+"-"); ok && version != ref.Version && versions.CheckVersion(version) == nil {
		return fmt.Errorf("the tag %s is given to %s, which calls itself %s", tag, digest, ref)
	}
	if other, twice := c.names[ref]; twice {
		return fmt.Errorf("%s is in the file with two contents: %s and %s", ref, other, digest)
	}
	c.names[ref] = digest
	c.position[digest] = len(c.bundle.Entries)
	c.bundle.Entries = append(c.bundle.Entries, Entry{Version: packed})
	return nil
}

// attach gives the attachments to their versions.
func (c *contents) attach() error {
	for _, at := range c.attachments {
		i, ok := c.position[at.Subject]
		if !ok {
			c.bundle.ignore("%s is attached to %s, which is not in the file", at.Digest, at.Subject)
			continue
		}
		e := &c.bundle.Entries[i]
		if len(e.Attachments) >= 2*versions.MaxAttachments {
			return fmt.Errorf("%s has more than %d attachments", e.Version.Ref(), 2*versions.MaxAttachments)
		}
		e.Attachments = append(e.Attachments, at)
	}
	return nil
}
