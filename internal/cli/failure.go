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
	lines := strings.Split(clean(message), "\n")
	fmt.Fprintf(w, "specctl: %s\n", lines[0])
	for _, more := range lines[1:] {
		fmt.Fprintf(w, "  %s\n", strings.TrimSpace(more))
	}
}
