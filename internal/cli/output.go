package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// printer writes for people: folded and coloured on a terminal, plain elsewhere.
type printer struct {
	w     io.Writer
	color bool
	// width to which lines are folded, 0: never.
	width int
}

// style is an ANSI rendition.
type style string

const (
	plain style = ""
	bold  style = "\x1b[1m"
	red   style = "\x1b[31m"
	green style = "\x1b[32m"
	dim   style = "\x1b[2m"
	reset       = "\x1b[0m"
)

func newPrinter(env Env) *printer {
	p := &printer{w: env.Stdout}
	if env.Terminal {
		p.color = env.Getenv("NO_COLOR") == "" && env.Getenv("TERM") != "dumb"
		p.width = env.Width
		if p.width == 0 {
			p.width = 80
		}
	}
	return p
}

func (p *printer) paint(s style, text string) string {
	if !p.color || s == plain || text == "" {
		return text
	}
	return string(s) + text + reset
}

// line prints one line that holds no foreign text, or only text that is clean.
func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(p.w, format+"\n", args...)
}

// heading prints a line in bold.
func (p *printer) heading(format string, args ...any) {
	p.line("%s", p.paint(bold, clean(fmt.Sprintf(format, args...))))
}

// field prints "  name: text", folded under itself on a terminal. An empty text prints nothing.
func (p *printer) field(name, format string, args ...any) {
	p.styled(plain, name, format, args...)
}

func (p *printer) styled(s style, name, format string, args ...any) {
	text := clean(fmt.Sprintf(format, args...))
	if text == "" {
		return
	}
	lines := fold(text, p.width-len("  ")-len(name)-len(": "))
	if p.width == 0 {
		lines = strings.Split(text, "\n")
	}
	indent := strings.Repeat(" ", len("  ")+len(name)+len(": "))
	for i, l := range lines {
		l = p.paint(s, l)
		if i == 0 {
			p.line("  %s %s", p.paint(dim, name+":"), l)
		} else {
			p.line("%s%s", indent, l)
		}
	}
}

// fold breaks text at spaces so that no line is longer than width, as far as its words allow.
func fold(text string, width int) []string {
	width = max(width, 8)
	var lines []string
	for paragraph := range strings.SplitSeq(text, "\n") {
		line := ""
		for word := range strings.FieldsSeq(paragraph) {
			switch {
			case line == "":
				line = word
			case runes(line)+1+runes(word) > width:
				lines = append(lines, line)
				line = word
			default:
				line += " " + word
			}
		}
		lines = append(lines, line)
	}
	return lines
}

func runes(s string) int { return len([]rune(s)) }

// clean makes text from elsewhere (agents, clients, proxies) harmless to a terminal: control characters but newline and tab are replaced.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// formats are what -o may say; the first is the default.
type formats []string

const (
	asTable = "table"
	asJSON  = "json"
	asCSV   = "csv"
)

// outputFlag gives a command its -o, and returns what to read the choice with.
func outputFlag(cmd *cobra.Command, allowed ...string) func() (string, error) {
	known := formats(allowed)
	value := cmd.Flags().StringP("output", "o", known[0], "output: "+strings.Join(known, ", "))
	return func() (string, error) {
		if !slices.Contains(known, *value) {
			return "", usageError(cmd, "-o %s: %s prints %s", *value, cmd.CommandPath(), strings.Join(known, ", "))
		}
		return *value, nil
	}
}

// json prints one API message with the API's field names, indented. Fields without a value are there, so that programs need not guess.
func (p *printer) json(m proto.Message) error {
	compact, err := messageJSON(m)
	if err != nil {
		return err
	}
	return p.rawJSON(compact)
}

// jsonLine prints one message on one line, for streams.
func (p *printer) jsonLine(m proto.Message) error {
	compact, err := messageJSON(m)
	if err != nil {
		return err
	}
	p.line("%s", compact)
	return nil
}

func (p *printer) rawJSON(compact []byte) error {
	var indented bytes.Buffer
	if err := json.Indent(&indented, compact, "", "  "); err != nil {
		return fmt.Errorf("the control plane sent no valid JSON: %w", err)
	}
	p.line("%s", indented.Bytes())
	return nil
}

// messageJSON is stable from build to build, which protojson by itself takes care not to be: its spaces are taken out.
func messageJSON(m proto.Message) ([]byte, error) {
	loose, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write %s as JSON: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, loose); err != nil {
		return nil, err
	}
	return compact.Bytes(), nil
}
