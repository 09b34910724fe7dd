package capture

import "sync"

// Kept is how many excerpts are kept of the first failing executions, and as many of the last.
const Kept = 8

// Keeper holds the excerpts of the first and the last failing executions. They are redacted when they are asked for: of a crowd of failures,
// nearly all never are.
type Keeper struct {
	redactor *Redactor

	mu    sync.Mutex
	first []*entry
	last  []*entry // the oldest first
}

type entry struct {
	id                string
	request, response Body
	made              *Excerpt // nil until it is asked for
}

// NewKeeper keeps what redactor makes.
func NewKeeper(redactor *Redactor) *Keeper { return &Keeper{redactor: redactor} }

// Put takes what was captured of a failing execution. It is the keeper's from then on. Of several exchanges of one execution the first counts.
func (k *Keeper) Put(id string, request, response Body) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.find(id) != nil {
		return
	}
	e := &entry{id: id, request: request, response: response}
	if len(k.first) < Kept {
		k.first = append(k.first, e)
		return
	}
	if len(k.last) == Kept {
		copy(k.last, k.last[1:])
		k.last = k.last[:Kept-1]
	}
	k.last = append(k.last, e)
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
	for _, all := range [][]*entry{k.first, k.last} {
		for _, e := range all {
			if e.id == id {
				return e
			}
		}
	}
	return nil
}
