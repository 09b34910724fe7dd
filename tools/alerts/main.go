// Command alerts reads files of Prometheus rules as Prometheus itself does, and fails with what is wrong in them.
package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: alerts FILE...")
		os.Exit(2)
	}
	failed := false
	for _, name := range os.Args[1:] {
		groups, errs := rulefmt.ParseFile(name, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
		for _, err := range errs {
			fmt.Fprintln(os.Stderr, err)
			failed = true
		}
		rules := 0
		if groups != nil {
			for _, g := range groups.Groups {
				rules += len(g.Rules)
			}
		}
		if rules == 0 {
			fmt.Fprintf(os.Stderr, "%s: there is no rule in it\n", name)
			failed = true
		}
		fmt.Printf("%s: %d rules\n", name, rules)
	}
	if failed {
		os.Exit(1)
	}
}
