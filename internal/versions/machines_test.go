package versions_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/versions"
)

// exampleFolders are the versions that come with the repository.
func exampleFolders(t *testing.T) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir("../../examples", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "spec.yaml" {
			all = append(all, filepath.Dir(path))
		}
		return err
	})
	if err != nil || len(all) < 2 {
		t.Fatalf("examples: %v, %v", all, err)
	}
	slices.Sort(all)
	return all
}

// build makes the little program for an architecture.
func build(t *testing.T, arch string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "digest")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./testdata/digest")
	cmd.Env = append(os.Environ(), "GOARCH="+arch, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build for %s: %v\n%s", arch, err, out)
	}
	return program
}

// runs says that this machine executes programs of the architecture.
func runs(arch string) bool {
	return arch == runtime.GOARCH || arch == "386" && runtime.GOARCH == "amd64"
}

// The golden digests of TestDigestsOfTheExamples hold on another machine: another word size, time zone, locale and umask, and files with other
// times and modes that were written in another order.
func TestDigestsHoldOnOtherMachines(t *testing.T) {
	folders := exampleFolders(t)
	var want strings.Builder
	for _, folder := range folders {
		files, err := versions.LoadFolder(os.DirFS(folder))
		if err != nil {
			t.Fatal(err)
		}
		p := pack(t, files)
		fmt.Fprintln(&want, p.Ref(), p.Digest)
	}
	copied := scrambled(t, folders)
	for _, arch := range []string{"amd64", "386", "arm64"} {
		program := build(t, arch)
		if !runs(arch) {
			continue // it compiles, which is what this machine can show
		}
		for _, zone := range []string{"Pacific/Kiritimati", "America/St_Johns"} {
			// A shell sets the umask for the program alone.
			cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", `umask 0777; exec "$0" "$@"`, program}, copied...)...)
			cmd.Env = append(os.Environ(), "TZ="+zone, "LC_ALL=tr_TR.UTF-8", "LANG=tr_TR.UTF-8")
			got, err := cmd.Output()
			if err != nil {
				t.Fatalf("run for %s: %v", arch, err)
			}
			if string(got) != want.String() {
				t.Errorf("on %s in %s the digests are\n%swant\n%s", arch, zone, got, want.String())
			}
		}
	}
}

// scrambled copies folders: files written last first, with other times and modes, and one beside them that is no part of the version.
func scrambled(t *testing.T, folders []string) []string {
	t.Helper()
	var all []string
	for _, folder := range folders {
		var files []string
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		to := t.TempDir()
		slices.Reverse(files)
		for i, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			target := filepath.Join(to, strings.TrimPrefix(file, folder))
			if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(target, data, fs.FileMode(0o400|i%2*0o333)); err != nil {
				t.Fatal(err)
			}
			when := time.Date(1980+i, 2, 29, 23, 59, 59, 0, time.UTC)
			if err := os.Chtimes(target, when, when); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(to, ".DS_Store"), []byte("no document"), 0o600); err != nil {
			t.Fatal(err)
		}
		all = append(all, to)
	}
	return all
}
