package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
)

// failure is an error that knows its exit code.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// errUnproven ends a command whose change is committed but not proven; all there is to say has been printed.
var errUnproven = errors.New("committed, not yet proven")

func usageError(cmd *cobra.Command, format string, args ...any) error {
	return &failure{code: ExitUsage, err: fmt.Errorf(format+"\nsee: "+cmd.CommandPath()+" --help", args...)}
}

func exitCode(err error) int {
	if err == nil {
		return ExitDone
	}
	if errors.Is(err, errUnproven) {
		return ExitUnproven
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f.code
	}
	return ExitFailed
}

// report prints an error once, for people: the server's sentence without its code.
func report(w io.Writer, err error) {
	if errors.Is(err, errUnproven) {
		return
	}
	message := err.Error()
	if refused, ok := errors.AsType[*connect.Error](err); ok && message == refused.Error() {
		message = refused.Message()
	}
	lines := strings.Split(strings.TrimRight(clean(message), "\n "), "\n")
	fmt.Fprintf(w, "specctl: %s\n", lines[0])
	margin := narrowest(lines[1:])
	for _, more := range lines[1:] {
		if next := strings.TrimSpace(more); strings.HasPrefix(next, "next: ") {
			more, margin = next, 0
		}
		fmt.Fprintf(w, "  %s\n", more[min(margin, len(more)):])
	}
}

// narrowest is the indent that all lines have, so that an example among them keeps its shape.
func narrowest(lines []string) int {
	margin := -1
	for _, line := range lines {
		if text := strings.TrimLeft(line, " "); text != "" && !strings.HasPrefix(text, "next: ") {
			if indent := len(line) - len(text); margin < 0 || indent < margin {
				margin = indent
			}
		}
	}
	return max(margin, 0)
}
