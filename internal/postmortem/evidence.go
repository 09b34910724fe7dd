package postmortem

import (
	"slices"
	"time"
)

// Evidence is what was gathered of one spec's rollback by itself: observations only. What follows from them is Analyse's to say.
type Evidence struct {
	// At is when it was gathered; Final says that nothing more will be.
	At    time.Time `json:"at"`
	Final bool      `json:"final"`
	// Steps are the generations in which the abandoned versions held weight, oldest first, and the rollback's own.
	Steps []Exposed `json:"steps"`
	// Totals are what each version had counted when this was gathered.
	Totals []Outcome `json:"totals"`
	// Series is what each version had counted over time.
	Series []Series `json:"series"`
	// Failing are the failing executions of the abandoned versions and of the target since the first step, by when they ended.
	Failing []Failing `json:"failing"`
	// Reasons count the failing executions by version and by what their agents said.
	Reasons []Reason `json:"reasons"`
	// First and Last of the abandoned versions' failing executions, in full.
	First []Sample `json:"first"`
	Last  []Sample `json:"last"`
	// Changes say in words what is different in each abandoned version; Files what of its documents.
	Changes []Changed `json:"changes"`
	// Reports are the conformance reports of the versions.
	Reports []Report   `json:"reports"`
	Proxies []ProxyAck `json:"proxies"`
	Sources []Source   `json:"sources"`
}

// Exposed is one generation of the route: its weights, and what each version had counted when it began and when the next one did.
type Exposed struct {
	Step
	// Until is when the next generation began, or when the evidence was gathered.
	Until time.Time `json:"until"`
	Begin []Outcome `json:"begin"`
	End   []Outcome `json:"end"`
}

// Point is what a version's pool had counted at a time, since its sidecars started.
type Point struct {
	At        time.Time `json:"at"`
	Started   uint64    `json:"started"`
	Succeeded uint64    `json:"succeeded"`
	Failed    uint64    `json:"failed"`
	Unknown   uint64    `json:"unknown"`
	InFlight  uint64    `json:"inFlight"`
}

// Series is one version's points, oldest first.
type Series struct {
	Version string  `json:"version"`
	Points  []Point `json:"points"`
}

// Failing is one failing execution.
type Failing struct {
	ID      string    `json:"id"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	// Ended is zero if it still ran when it had failed.
	Ended time.Time `json:"ended,omitzero"`
	// Generation that assigned it; 0 if it was pinned, handed over or came past a proxy: then it says nothing about weights.
	Generation uint64 `json:"generation,omitempty"`
	// Key is the digest of the client's own id for it; empty if it sent none.
	Key    string `json:"key,omitempty"`
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`
}

// Sample is a failing execution in full.
type Sample struct {
	Failing
	Reason  string `json:"reason,omitempty"`
	Status  int    `json:"status,omitempty"`
	Effects string `json:"effects,omitempty"`
	Skill   string `json:"skill,omitempty"`
	Why     string `json:"why,omitempty"`
	// Excerpt is what was captured of it; nil if nothing was.
	Excerpt *Excerpt `json:"excerpt,omitempty"`
}

// Excerpt is what was captured of an execution, redacted by the rules of its manifest.
type Excerpt struct {
	Request  Part `json:"request"`
	Response Part `json:"response"`
}

// Part is the beginning of a body. The text itself is kept beside the chain.
type Part struct {
	// Digest of the text; empty if there is none.
	Digest string `json:"digest,omitempty"`
	// Cut: the body went on.
	Cut bool `json:"cut,omitempty"`
	// Missing says why there is no text.
	Missing string `json:"missing,omitempty"`
	// Text, and that it was Erased, are there only while somebody reads the record: see WithTexts.
	Text   string `json:"-"`
	Erased bool   `json:"-"`
}

// WithTexts returns a copy in which the excerpts have their texts, as far as they are known by their digests.
func (r Record) WithTexts(texts map[string]string) Record {
	known := func(p Part) Part {
		p.Text, p.Erased = texts[p.Digest], r.erased(p.Digest)
		return p
	}
	fill := func(all []Sample) []Sample {
		all = slices.Clone(all)
		for i, s := range all {
			if s.Excerpt != nil {
				all[i].Excerpt = &Excerpt{Request: known(s.Excerpt.Request), Response: known(s.Excerpt.Response)}
			}
		}
		return all
	}
	for _, rb := range r.Rollbacks {
		if rb.Evidence != nil {
			r = r.WithRollback(rb.Spec, func(b *Rollback) {
				e := *b.Evidence
				e.First, e.Last = fill(e.First), fill(e.Last)
				b.Evidence = &e
			})
		}
	}
	return r
}

// erased says that the text of a digest was erased.
func (r Record) erased(digest string) bool {
	return slices.ContainsFunc(r.Erasures, func(e Erasure) bool { return slices.Contains(e.Digests, digest) })
}

// Reason counts failing executions.
type Reason struct {
	Version string `json:"version"`
	Reason  string `json:"reason"`
	Count   int    `json:"count"`
}

// Changed is what is different in an abandoned version from the target.
type Changed struct {
	Version string   `json:"version"`
	Words   []string `json:"words"`
	Files   []File   `json:"files"`
}

// File that differs.
type File struct {
	Path    string `json:"path"`
	Status  string `json:"status"`
	Added   int    `json:"linesAdded"`
	Removed int    `json:"linesRemoved"`
	// Unified is the difference line by line, shortened if it is long.
	Unified string `json:"unified,omitempty"`
}

// Report is one conformance report of one version.
type Report struct {
	Version string    `json:"version"`
	Suite   string    `json:"suite"`
	At      time.Time `json:"at"`
	By      string    `json:"by,omitempty"`
	Tests   int       `json:"tests"`
	Failed  int       `json:"failed"`
	Skipped int       `json:"skipped"`
	// Touching are the cases whose names share a word with what changed.
	Touching []string `json:"touching"`
}

// ProxyAck is when one proxy acknowledged the rollback's generation.
type ProxyAck struct {
	Node string `json:"node"`
	// At is zero if it has not.
	At         time.Time `json:"at,omitzero"`
	Generation uint64    `json:"generation"`
}

// Source says where one item of the evidence came from, and what of it is missing.
type Source struct {
	Item    string `json:"item"`
	From    string `json:"from"`
	Missing string `json:"missing,omitempty"`
}
