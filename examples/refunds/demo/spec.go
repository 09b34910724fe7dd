package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// The folders of the story: the version that works, the one that is wrong, and the one that puts it right.
const (
	goodFolder  = "2.0.3"
	badFolder   = "2.1.0"
	fixedFolder = "2.2.0"
)

// version is one spec version of the story.
type version struct {
	name, version string
	folder        string
	// limit is what the agent may pay without an exception, in dollars.
	limit int
}

// host is the name by which customers ask for the spec.
func (v version) host() string { return v.name + ".agents" }

func (v version) ref() string { return v.name + ":" + v.version }

// cast are the versions of the story.
type cast struct {
	good, bad, fixed version
}

// readVersion reads what the story has to know of a version's folder.
func readVersion(folder string) (version, error) {
	var manifest struct {
		Name    string `yaml:"name"`
		Version string `yaml:"version"`
	}
	var limits struct {
		Refund struct {
			Limit int `yaml:"limit"`
		} `yaml:"refund"`
	}
	if err := readYAML(filepath.Join(folder, "spec.yaml"), &manifest); err != nil {
		return version{}, err
	}
	if err := readYAML(filepath.Join(folder, "limits.yaml"), &limits); err != nil {
		return version{}, err
	}
	return version{name: manifest.Name, version: manifest.Version, folder: folder, limit: limits.Refund.Limit}, nil
}

func readYAML(path string, v any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

var limitLine = regexp.MustCompile(`(?m)^(\s+limit:\s*)\d+\s*$`)

// withLimit copies a version's folder to another place and puts another limit into it.
func withLimit(folder, to string, limit int) error {
	if err := os.CopyFS(to, os.DirFS(folder)); err != nil {
		return err
	}
	path := filepath.Join(to, "limits.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := len(limitLine.FindAll(text, -1)); n != 1 {
		return fmt.Errorf("%s: %w", path, errors.New("want exactly one line `limit: DOLLARS` to replace"))
	}
	return os.WriteFile(path, limitLine.ReplaceAll(text, []byte("${1}"+strconv.Itoa(limit))), 0o644)
}
