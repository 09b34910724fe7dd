// Command check judges a run of the worked example. It reads the client's log of every attempt, the payment ledger and the agents'
// journals, and nothing that the product counted.
//
// Invariants: a refund succeeded only if its client was told so and the ledger shows exactly one payment; what cannot be explained
// counts against the run; no version is known by name but through the facts of the run.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// errHeldNot is returned when the run was read and judged, and did not hold.
var errHeldNot = errors.New("the run did not hold")

// options are the files read and written.
type options struct {
	client, ledger, journals, facts string
	out, plot                       string
}

func main() {
	var o options
	flag.StringVar(&o.client, "client", "", "log of the client's attempts")
	flag.StringVar(&o.ledger, "ledger", "", "ledger of the payment process")
	flag.StringVar(&o.journals, "journals", "", "folder of the agents' journals, *.jsonl")
	flag.StringVar(&o.facts, "facts", "", "facts of the run")
	flag.StringVar(&o.out, "out", "", "where to write the result, JSON")
	flag.StringVar(&o.plot, "plot", "", "where to write the plot, SVG")
	flag.Parse()
	if err := run(o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
}

// run reads, judges and writes. It returns errHeldNot after everything is written if a bar was missed.
func run(o options, report io.Writer) error {
	facts, err := refund.ReadFacts(o.facts)
	if err != nil {
		return err
	}
	cases, err := readCases(o)
	if err != nil {
		return err
	}
	measured := measure(cases, facts)
	bars := judge(measured, facts)
	if err := writeResult(o.out, measured.result(facts)); err != nil {
		return err
	}
	if o.plot != "" {
		if err := os.WriteFile(o.plot, plot(cases, facts), 0o644); err != nil {
			return fmt.Errorf("plot: %w", err)
		}
	}
	return tell(report, measured, bars)
}

func readCases(o options) ([]*refundCase, error) {
	attempts, err := refund.ReadLog[refund.Attempt](o.client)
	if err != nil {
		return nil, err
	}
	ledger, err := refund.ReadLog[refund.LedgerLine](o.ledger)
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(o.journals, "*.jsonl"))
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("no journal *.jsonl in folder %q", o.journals)
	}
	var journal []refund.JournalLine
	for _, p := range paths {
		lines, err := refund.ReadLog[refund.JournalLine](p)
		if err != nil {
			return nil, err
		}
		journal = append(journal, lines...)
	}
	return join(attempts, ledger, journal)
}

func writeResult(path string, r result) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
