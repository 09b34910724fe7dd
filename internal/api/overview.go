package api

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/store"
)

// overview keeps the specs in the order in which the fleet is shown: trouble first, then what changed last. A question costs what has changed
// since the last one, not the number of specs: what the store says changed, and at most once a second the specs whose sidecars reported.
// Trouble that goes by itself, as a bad success rate does after its half minute, goes from the order when the spec is next shown or reported
// about. The zero value is ready.
type overview struct {
	mu sync.Mutex
	// revision of the store up to which rows are right; -1 before the first question.
	revision int64
	begun    bool
	touched  time.Time
	rows     map[string]*row
	ordered  []*row
	troubled int
}

// row is one spec's place in the order.
type row struct {
	name    string
	trouble int
	changed int64 // nanoseconds
}

func placed(a, b *row) int {
	return cmp.Or(cmp.Compare(b.trouble, a.trouble), cmp.Compare(b.changed, a.changed), strings.Compare(a.name, b.name))
}

// token is where the page after this row begins.
func (r *row) token() string { return fmt.Sprintf("%d.%d.%s", r.trouble, r.changed, r.name) }

func parseToken(token string) (*row, error) {
	parts := strings.SplitN(token, ".", 3)
	if len(parts) != 3 {
		return nil, badToken(token)
	}
	trouble, err := strconv.Atoi(parts[0])
	if err != nil {
		return nil, badToken(token)
	}
	changed, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return nil, badToken(token)
	}
	return &row{name: parts[2], trouble: trouble, changed: changed}, nil
}

// page returns the names of up to limit specs after a row (nil: from the first), where the next page begins, and the totals.
func (o *overview) page(s *Server, after *row, limit int) (names []string, next string, total, troubled int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refresh(s)
	at := 0
	if after != nil {
		var found bool
		if at, found = slices.BinarySearchFunc(o.ordered, after, placed); found {
			at++
		}
	}
	end := min(at+limit, len(o.ordered))
	for _, r := range o.ordered[at:end] {
		names = append(names, r.name)
	}
	if end < len(o.ordered) && end > at {
		next = o.ordered[end-1].token()
	}
	return names, next, len(o.ordered), o.troubled
}

// touchEvery bounds how often the specs are looked at again only because sidecars reported.
const touchEvery = time.Second

// refresh brings the order up to date.
func (o *overview) refresh(s *Server) {
	changed, revision, complete := s.Store.Changed(o.revision)
	view := s.Store.View()
	if !o.begun || !complete {
		changed, o.begun, o.rows, o.ordered, o.troubled = view.SomeSpecs("", "", 0), true, map[string]*row{}, nil, 0
	}
	if now := time.Now(); now.Sub(o.touched) >= touchEvery {
		o.touched = now
		changed = append(changed, s.Fleet.Touched()...)
	}
	o.revision = revision
	if len(changed) > len(o.rows)/8 {
		o.rebuild(s, view, changed)
		return
	}
	for _, name := range changed {
		o.put(name, s.rowOf(view, name))
	}
}

// rebuild sorts once instead of moving many rows one by one.
func (o *overview) rebuild(s *Server, view *store.View, changed []string) {
	for _, name := range changed {
		if r := s.rowOf(view, name); r != nil {
			o.rows[name] = r
		}
	}
	o.ordered, o.troubled = o.ordered[:0], 0
	for _, r := range o.rows {
		o.ordered = append(o.ordered, r)
		if r.trouble > 0 {
			o.troubled++
		}
	}
	slices.SortFunc(o.ordered, placed)
}

// put moves one spec to its place. Specs never go.
func (o *overview) put(name string, r *row) {
	old := o.rows[name]
	if r == nil || old != nil && *old == *r {
		return
	}
	if old != nil {
		if at, found := slices.BinarySearchFunc(o.ordered, old, placed); found {
			o.ordered = slices.Delete(o.ordered, at, at+1)
		}
		if old.trouble > 0 {
			o.troubled--
		}
	}
	o.rows[name] = r
	at, _ := slices.BinarySearchFunc(o.ordered, r, placed)
	o.ordered = slices.Insert(o.ordered, at, r)
	if r.trouble > 0 {
		o.troubled++
	}
}

// shown takes note of specs as they were just shown.
func (o *overview) shown(specs []*operatorv1.Spec) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, spec := range specs {
		if _, there := o.rows[spec.GetName()]; there {
			o.put(spec.GetName(), rowOf(spec))
		}
	}
}

func (s *Server) rowOf(view *store.View, name string) *row {
	if !view.Known(name) {
		return nil // something else was written about it
	}
	return rowOf(s.specOf(view, name))
}

func rowOf(spec *operatorv1.Spec) *row {
	r := &row{name: spec.GetName(), trouble: len(spec.GetTrouble())}
	if spec.GetChangedAt() != nil {
		r.changed = spec.GetChangedAt().AsTime().UnixNano()
	}
	return r
}
