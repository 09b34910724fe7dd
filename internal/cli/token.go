package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

const tokenName = "admin.token"

// token finds the bearer token: the flag's file, the variable, the data directory's file, ./data's. The second result is where it came
// from or, when there is none, where it was looked for. A file that was not named need not exist.
func (a *app) token() (token, origin string, err error) {
	if a.tokenFile != "" {
		token, err = readToken(a.tokenFile)
		return token, a.tokenFile, err
	}
	if token = strings.TrimSpace(a.env.Getenv("SPECPROXY_TOKEN")); token != "" {
		return token, "SPECPROXY_TOKEN", nil
	}
	directory := a.env.Getenv("SPECPROXY_DATA_DIR")
	if directory == "" {
		directory = "data"
	}
	name := filepath.Join(directory, tokenName)
	token, err = readToken(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "give --token-file, SPECPROXY_TOKEN or SPECPROXY_DATA_DIR (there is no " + name + ")", nil
	}
	return token, name, err
}

// readToken reads a token that nobody else can read.
func readToken(name string) (string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return "", fmt.Errorf("token file %s can be read by others (mode %04o)\nrun: chmod 600 %s", name, mode, name)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	token := strings.TrimSpace(string(content))
	if token == "" || headerValue(token) != token {
		return "", fmt.Errorf("token file %s does not hold a token: one line of printable characters", name)
	}
	return token, nil
}
