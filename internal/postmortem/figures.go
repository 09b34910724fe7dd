package postmortem

import (
	"crypto/sha256"
	"encoding/json"
	"sync"
)

// keptFigures bounds how many states of records' evidence figures are kept of.
const keptFigures = 64

// Figures derives, and keeps what it derived: the simulated canaries take up to seconds, and a record is read often. What is kept goes by the SHA-256
// of all that the record says of its rollbacks, so it is never of another state than the one that is asked about, and nothing is stored that
// somebody could alter. The zero value is ready; it may be used by several goroutines.
type Figures struct {
	mu   sync.Mutex
	kept map[[sha256.Size]byte]*figures
}

type figures struct {
	once  sync.Once
	found []Found
}

// Of is Derive. The caller changes nothing in what it gets: others have it too.
func (f *Figures) Of(r Record) []Found {
	raw, err := json.Marshal(r.Rollbacks)
	if err != nil { // a record came from JSON, so it goes back
		return Derive(r)
	}
	kept := f.entry(sha256.Sum256(raw))
	kept.once.Do(func() { kept.found = Derive(r) })
	return kept.found
}

func (f *Figures) entry(key [sha256.Size]byte) *figures {
	f.mu.Lock()
	defer f.mu.Unlock()
	kept, ok := f.kept[key]
	if !ok {
		if f.kept == nil || len(f.kept) >= keptFigures {
			f.kept = map[[sha256.Size]byte]*figures{}
		}
		kept = &figures{}
		f.kept[key] = kept
	}
	return kept
}
