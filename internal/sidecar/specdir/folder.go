package specdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/specproxy/specproxy/internal/versions"
)

// Write lays a version's files out below dir, read-only, spec.yaml among them. What an earlier process left there is removed first.
func Write(dir string, p versions.Packed) error {
	if err := Remove(dir); err != nil {
		return err
	}
	for _, b := range p.Blobs {
		path := filepath.Join(dir, filepath.FromSlash(b.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("write the documents of %s: %w", p.Ref(), err)
		}
		if err := os.WriteFile(path, b.Data, 0o444); err != nil { //nolint:gosec // the agent may run as somebody else
			return fmt.Errorf("write the documents of %s: %w", p.Ref(), err)
		}
	}
	return chmodFolders(dir, 0o555)
}

// Remove removes what Write wrote; it is no error if there is nothing.
func Remove(dir string) error {
	if err := chmodFolders(dir, 0o700); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the documents of an earlier run: %w", err)
	}
	return nil
}

func chmodFolders(dir string, mode fs.FileMode) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Chmod(path, mode)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("permissions below %s: %w", dir, err)
	}
	return nil
}
