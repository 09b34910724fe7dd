package drain_test

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/specproxy/specproxy/internal/drain"
)

var noon = time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)

// golden is one line of testdata/decide.txt with its answer.
type golden struct {
	line     int
	contract drain.Contract
	view     drain.View
	want     []string
}

func TestDecide(t *testing.T) {
	cases := readGolden(t)
	if len(cases) < 30 {
		t.Fatalf("only %d cases were read", len(cases))
	}
	for _, c := range cases {
		d := drain.Decide(c.contract, c.view, "2.0.3", noon)
		if got := []string{writeDecision(d), d.Why}; got[0] != c.want[0] || got[1] != c.want[1] {
			t.Errorf("testdata/decide.txt:%d\n got %s\n     %s\nwant %s\n     %s", c.line, got[0], got[1], c.want[0], c.want[1])
		}
	}
}

// Every contract of the table is one that could be deployed.
func TestDecideContractsAreValid(t *testing.T) {
	for _, c := range readGolden(t) {
		if errs := c.contract.Validate(); errs != nil {
			t.Errorf("testdata/decide.txt:%d: %v", c.line, errs)
		}
	}
}

func writeDecision(d drain.Decision) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s rule=%d effects=%s", d.Disposition, d.Rule, d.Effects)
	if !d.Deadline.IsZero() {
		fmt.Fprintf(&b, " deadline=%s", drain.Duration(d.Deadline.Sub(noon)))
	}
	if d.Then != "" {
		fmt.Fprintf(&b, " then=%s", d.Then)
	}
	if !d.RetryAfter.IsZero() {
		fmt.Fprintf(&b, " retry=%s", d.RetryAfter)
	}
	return b.String()
}

func readGolden(t *testing.T) []golden {
	t.Helper()
	f, err := os.Open("testdata/decide.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	contracts := map[string]drain.Contract{}
	var cases []golden
	var name, text string
	flush := func() {
		if name != "" {
			contracts[name] = mustContract(t, text)
		}
		name, text = "", ""
	}
	scanner := bufio.NewScanner(f)
	for n := 1; scanner.Scan(); n++ {
		line := scanner.Text()
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "contract "):
			flush()
			name = strings.TrimPrefix(line, "contract ")
		case name != "" && strings.HasPrefix(line, " "):
			text += strings.TrimPrefix(line, "  ") + "\n"
		case strings.HasPrefix(line, " "):
			last := &cases[len(cases)-1]
			last.want = append(last.want, strings.TrimPrefix(strings.TrimSpace(line), "=> "))
		default:
			flush()
			who, what, _ := strings.Cut(line, ": ")
			contract, ok := contracts[who]
			if !ok {
				t.Fatalf("testdata/decide.txt:%d: no contract %q", n, who)
			}
			cases = append(cases, golden{line: n, contract: contract, view: readView(t, what)})
		}
	}
	for _, c := range cases {
		if len(c.want) != 2 {
			t.Fatalf("testdata/decide.txt:%d: an answer has two lines, this has %d", c.line, len(c.want))
		}
	}
	return cases
}

func readView(t *testing.T, text string) drain.View {
	t.Helper()
	v := drain.View{Method: "POST", Path: "/", Started: noon.Add(-time.Second)}
	for i, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		switch {
		case i == 0 && word == "silent":
		case i == 0:
			effects, err := drain.ParseEffects(word)
			if err != nil {
				t.Fatal(err)
			}
			v.Effects = effects
		case word == "replayable":
			v.Replayable = true
		case word == "responded":
			v.Responded = true
		case word == "handed-over":
			v.HandedOver = true
		case word == "grpc":
			v.GRPC = true
		case key == "tool":
			v.Tools = append(v.Tools, value)
		case key == "skill":
			v.Skill = value
		case strings.HasPrefix(key, "header:"):
			v.Headers = map[string]string{strings.TrimPrefix(key, "header:"): value}
		case key == "age":
			v.Started = noon.Add(-mustDuration(t, value))
		case key == "deadline":
			v.Deadline = noon.Add(mustDuration(t, value))
		case word[0] == '/':
			v.Path = word
		case word == strings.ToUpper(word):
			v.Method = word
		default:
			t.Fatalf("cannot read %q in %q", word, text)
		}
	}
	return v
}

func mustDuration(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := drain.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(d)
}

func mustContract(t *testing.T, text string) drain.Contract {
	t.Helper()
	var c drain.Contract
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil {
		t.Fatalf("contract:\n%s%v", text, err)
	}
	return c
}
