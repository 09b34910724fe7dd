package versions

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ManifestPath is the manifest's own path in a folder. It is part of every version and is not listed among its documents.
const ManifestPath = "spec.yaml"

// Bounds on one version. A sidecar holds a whole version in memory while it verifies it.
const (
	MaxDocuments    = 1_000
	MaxHosts        = 100
	MaxRules        = 100
	MaxManifestSize = 1 << 20
	MaxVersionSize  = 64 << 20
	MaxBodyBuffer   = 64 << 20
)

// checkDocument says why p cannot be a document's path, or nil. A path that passes can be created below any folder on any system and
// never leaves it.
func checkDocument(p string) error {
	switch {
	case p == "":
		return errors.New("is empty")
	case !utf8.ValidString(p):
		return fmt.Errorf("%q is not UTF-8", p)
	case len(p) > 1024:
		return fmt.Errorf("%q has %d bytes: at most 1024", p, len(p))
	case strings.Contains(p, `\`):
		return fmt.Errorf("%q: write document paths with forward slashes: %s", p, strings.ReplaceAll(p, `\`, "/"))
	case strings.HasPrefix(p, "/"):
		return fmt.Errorf("%q is absolute: documents lie in the version's own folder", p)
	case len(p) >= 2 && p[1] == ':':
		return fmt.Errorf("%q begins with a drive: documents lie in the version's own folder", p)
	case p == ".." || strings.HasPrefix(p, "../") || strings.HasSuffix(p, "/..") || strings.Contains(p, "/../"):
		return fmt.Errorf("%q contains ..: documents lie in the version's own folder", p)
	case path.Clean(p) != p || !fs.ValidPath(p) || p == ".":
		return fmt.Errorf("%q is not the shortest form of a file's path: write %q", p, path.Clean(p))
	case strings.ContainsFunc(p, unicode.IsControl):
		return fmt.Errorf("%q contains a control character", p)
	case strings.EqualFold(p, ManifestPath):
		return fmt.Errorf("%q is the manifest itself and always part of the version: leave it out", p)
	}
	for segment := range strings.SplitSeq(p, "/") {
		if len(segment) > 255 {
			return fmt.Errorf("%q: the name %.20q… has %d bytes: at most 255", p, segment, len(segment))
		}
	}
	return nil
}

// checkDocuments reports what is wrong with the list as a whole, by index: two paths that a file system could not hold side by side.
func checkDocuments(paths []string, report func(index int, message string)) {
	if len(paths) > MaxDocuments {
		report(0, fmt.Sprintf("lists %d documents: at most %d", len(paths), MaxDocuments))
		return
	}
	// Compared in lower case: a folder on macOS or Windows cannot hold both README.md and readme.md.
	seen := map[string]int{strings.ToLower(ManifestPath): -1}
	for i, p := range paths {
		key := strings.ToLower(p)
		if first, ok := seen[key]; ok && first >= 0 {
			if paths[first] == p {
				report(i, fmt.Sprintf("%q is listed twice", p))
			} else {
				report(i, fmt.Sprintf("%q differs from %q only in case: not every file system can hold both", p, paths[first]))
			}
			continue
		}
		seen[key] = i
	}
	for i, p := range paths {
		for dir := path.Dir(strings.ToLower(p)); dir != "."; dir = path.Dir(dir) {
			if other, ok := seen[dir]; ok {
				file := ManifestPath
				if other >= 0 {
					file = paths[other]
				}
				report(i, fmt.Sprintf("%q lies in %q, which is itself a file of the version", p, file))
				break
			}
			if dir == "/" {
				break
			}
		}
	}
}

// mediaType is a document's media type: by its extension, the same on every machine, for the eyes of registries. Nothing depends on it,
// and a stored version keeps the one it was packed with.
func mediaType(p string) string {
	if p == ManifestPath {
		return MediaTypeManifest
	}
	switch strings.ToLower(path.Ext(p)) {
	case ".md":
		return "text/markdown"
	case ".txt":
		return "text/plain"
	case ".json":
		return "application/json"
	case ".yaml", ".yml":
		return "application/yaml"
	}
	return "application/octet-stream"
}
