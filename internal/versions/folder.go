package versions

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
)

// LoadFolder reads a version's folder: spec.yaml and the documents it names, nothing else. Links and irregular files are refused, also on
// the way to a document: what is published must be what lies in the folder. The result is what Pack takes.
func LoadFolder(folder fs.FS) (map[string][]byte, error) {
	source, err := loadFile(folder, ManifestPath, MaxManifestSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s: a version is a folder with a manifest of that name and the documents it lists: %w", ManifestPath, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(source)
	if err != nil {
		return nil, err
	}
	ref := Ref{Spec: m.Name, Version: m.Version}
	files := map[string][]byte{ManifestPath: source}
	room := MaxVersionSize - len(source)
	for _, document := range m.Documents {
		data, err := loadFile(folder, document, room)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, missingDocument(ref, document)
		case errors.Is(err, errTooLarge):
			return nil, tooLarge(ref, document)
		case err != nil:
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
		room -= len(data)
		files[document] = data
	}
	return files, nil
}

var errTooLarge = errors.New("too large")

func loadFile(folder fs.FS, name string, limit int) ([]byte, error) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		info, err := fs.Lstat(folder, dir)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("document %q: %q is %s, not a folder", name, dir, modeName(info.Mode()))
		}
	}
	info, err := fs.Lstat(folder, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is %s: a version is made of plain files", name, modeName(info.Mode()))
	}
	f, err := folder.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	if len(data) > limit {
		return nil, fmt.Errorf("%q has more than %d bytes: %w", name, limit, errTooLarge)
	}
	return data, nil
}

func modeName(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "a link"
	case m.IsDir():
		return "a folder"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	case m.IsRegular():
		return "a file"
	}
	return "an irregular file"
}
