package capture

import (
	"slices"
	"sync"
	"time"
)

// Kept is how many excerpts are kept of the first failing executions, and as many of the last.
const Kept = 8

// Keeper holds the excerpts of the first and the last failing executions. They are redacted when they are asked for: of a crowd of failures,
// nearly all never are.
type Keeper struct {
	redactor *Redactor

	mu   sync.Mutex
	kept []*entry // by when they began
}

type entry struct {
	id                string
	began             time.Time
	request, response Body
	made              *Excerpt // nil until it is asked for
}

// NewKeeper keeps what redactor makes.
func NewKeeper(redactor *Redactor) *Keeper { return &Keeper{redactor: redactor} }

// Put takes what was captured of a failing execution, which may end long after others that began later. It is the keeper's from then on. Of several exchanges of one execution the first counts.
func (k *Keeper) Put(id string, began time.Time, request, response Body) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.find(id) != nil {
		return
	}
	e := &entry{id: id, began: began, request: request, response: response}
	i, _ := slices.BinarySearchFunc(k.kept, e, func(a, b *entry) int { return a.began.Compare(b.began) })
	if k.kept = slices.Insert(k.kept, i, e); len(k.kept) > 2*Kept {
		k.kept = slices.Delete(k.kept, Kept, Kept+1)
	}
}

// Excerpt of an execution; false if none is kept. A nil keeper keeps none.
func (k *Keeper) Excerpt(id string) (Excerpt, bool) {
	if k == nil {
		return Excerpt{}, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.find(id)
	if e == nil {
		return Excerpt{}, false
	}
	if e.made == nil {
		made := k.redactor.Excerpt(e.request, e.response)
		e.made, e.request, e.response = &made, Body{}, Body{}
	}
	return *e.made, true
}

func (k *Keeper) find(id string) *entry {
	if i := slices.IndexFunc(k.kept, func(e *entry) bool { return e.id == id }); i >= 0 {
		return k.kept[i]
	}
	return nil
}
