// Package conformance reads reports of the tests that a version was put through before it was deployed: JUnit XML, or JSON.
//
// Invariants: a report says that it passed only if at least one test ran and none failed, by its test cases as well as by its own totals; what
// is cut off, contradicts itself or is neither format is an error, never a pass. The package is pure.
package conformance

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Media types of reports, as Parse finds them.
const (
	MediaTypeJUnit = "application/xml"
	MediaTypeJSON  = "application/json"
)

// maxNamed bounds the failed tests that a Report names.
const maxNamed = 20

// maxCases bounds Report.Cases.
const maxCases = 500

// maxDepth bounds how deep suites may be nested.
const maxDepth = 32

// Report is what one run of a suite came to.
type Report struct {
	// Suite names what was run, so that a later report of the same suite takes this one's place.
	Suite     string
	MediaType string
	Tests     int
	// Failures counts failures and errors.
	Failures int
	Skipped  int
	// Cases names the first tests, whatever they came to.
	Cases []string
	// Failed names the first tests that failed.
	Failed []string
}

// Passed says that tests ran and none failed.
func (r Report) Passed() bool { return r.Failures == 0 && r.Tests > r.Skipped }

// String is "refund-policy: 41 passed, 1 failed, 2 skipped".
func (r Report) String() string {
	return fmt.Sprintf("%s: %d passed, %d failed, %d skipped", r.Suite, r.Tests-r.Failures-r.Skipped, r.Failures, r.Skipped)
}

// Parse reads a report. suite is its name where it gives none; a report without any name is an error.
func Parse(data []byte, suite string) (Report, error) {
	r, err := Report{}, errors.New("it is neither JUnit XML nor JSON")
	switch trimmed := bytes.TrimLeft(bytes.TrimPrefix(data, []byte("\ufeff")), " \t\r\n"); {
	case bytes.HasPrefix(trimmed, []byte("<")):
		r, err = parseJUnit(trimmed)
	case bytes.HasPrefix(trimmed, []byte("{")):
		r, err = parseJSON(trimmed)
	}
	if err != nil {
		return Report{}, fmt.Errorf("the report cannot be read: %w", err)
	}
	if suite != "" {
		r.Suite = suite
	}
	switch {
	case strings.TrimSpace(r.Suite) == "":
		return Report{}, errors.New("the report does not name its suite: give one")
	case len(r.Suite) > 200:
		return Report{}, errors.New("the suite's name has more than 200 bytes: give a shorter one")
	case r.Tests == 0:
		return Report{}, fmt.Errorf("the report of %s holds no test: that proves nothing", r.Suite)
	}
	return r, nil
}

// ran counts a test and remembers its name.
func (r *Report) ran(name string) {
	r.Tests++
	if len(r.Cases) < maxCases {
		r.Cases = append(r.Cases, name)
	}
}

func (r *Report) failed(name string) {
	r.Failures++
	if len(r.Failed) < maxNamed {
		r.Failed = append(r.Failed, name)
	}
}

// parseJSON reads {"suite": NAME, "tests": [{"name": NAME, "outcome": "passed"|"failed"|"skipped"}]}; other fields are for people.
func parseJSON(data []byte) (Report, error) {
	var in struct {
		Suite string
		Tests []struct{ Name, Outcome string }
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return Report{}, err
	}
	r := Report{Suite: in.Suite, MediaType: MediaTypeJSON}
	for i, t := range in.Tests {
		r.ran(t.Name)
		switch t.Outcome {
		case "passed":
		case "failed":
			r.failed(t.Name)
		case "skipped":
			r.Skipped++
		default:
			return Report{}, fmt.Errorf("test %d (%s): outcome %q: write passed, failed or skipped", i+1, t.Name, t.Outcome)
		}
	}
	return r, nil
}

// parseJUnit reads <testsuites> or <testsuite>. It counts the cases, and believes a suite's own totals where they are worse.
func parseJUnit(data []byte) (Report, error) {
	d := xml.NewDecoder(bytes.NewReader(data))
	j := junit{report: Report{MediaType: MediaTypeJUnit}}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Report{}, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if err := j.open(t); err != nil {
				return Report{}, err
			}
		case xml.EndElement:
			j.close(t)
		}
	}
	if !j.rooted {
		return Report{}, errors.New("it has no testsuite")
	}
	if j.claimed > j.report.Failures {
		// A suite may fail outside its cases.
		j.report.Failures = j.claimed
	}
	return j.report, nil
}

type junit struct {
	report Report
	depth  int
	rooted bool
	// claimed is the most failures and errors that a suite states.
	claimed int
	// test is the case that is open.
	test   string
	inside bool
	bad    bool
	skip   bool
}

func (j *junit) open(e xml.StartElement) error {
	j.depth++
	name := e.Name.Local
	switch {
	case j.depth > maxDepth:
		return fmt.Errorf("it is nested deeper than %d", maxDepth)
	case !j.rooted && name != "testsuites" && name != "testsuite":
		return fmt.Errorf("its root is <%s>, not <testsuites> or <testsuite>", name)
	}
	j.rooted = true
	switch {
	case name == "testsuites" || name == "testsuite":
		if j.report.Suite == "" {
			j.report.Suite = attribute(e, "name")
		}
		var failures, errs int
		for of, into := range map[string]*int{"failures": &failures, "errors": &errs} {
			text := attribute(e, of)
			if text == "" {
				continue
			}
			if _, err := fmt.Sscanf(text, "%d", into); err != nil {
				return fmt.Errorf("%s=%q of a suite is no number", of, text)
			}
		}
		j.claimed = max(j.claimed, failures+errs)
	case name == "testcase":
		if j.inside {
			return errors.New("a test case lies in another")
		}
		j.inside, j.bad, j.skip = true, false, false
		j.test = strings.Trim(attribute(e, "classname")+"."+attribute(e, "name"), ".")
		j.report.ran(j.test)
	case j.inside && (name == "failure" || name == "error"):
		j.bad = true
	case j.inside && name == "skipped":
		j.skip = true
	}
	return nil
}

func (j *junit) close(e xml.EndElement) {
	j.depth--
	if e.Name.Local != "testcase" || !j.inside {
		return
	}
	j.inside = false
	switch {
	case j.bad:
		j.report.failed(j.test)
	case j.skip:
		j.report.Skipped++
	}
}

func attribute(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}
