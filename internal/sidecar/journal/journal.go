// Package journal keeps, on disk, the acts that were granted to executions which have not ended, or whose end the control plane has not been told.
//
// A guarded agent may act only after its grant was journalled, so whatever happens to the sidecar, it is known afterwards what the agent was
// allowed to do. Invariants:
//   - when Grant returns nil the grant is on disk (fsync), in a file that survives a crash at any moment;
//   - after one write has failed no grant succeeds any more: what cannot be remembered must not happen;
//   - Open returns exactly the executions that were granted something and were not forgotten: those that ended with how they did.
//
// Grants that come together share one fsync (group commit). A record is one line: its CRC-32C, a blank, JSON.
package journal

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
)

// Execution is what is remembered of an execution that was granted an act.
type Execution struct {
	ID              string    `json:"id"`
	Key             string    `json:"key,omitempty"`
	Method          string    `json:"method"`
	Path            string    `json:"path"`
	StartedAt       time.Time `json:"startedAt"`
	RouteGeneration uint64    `json:"routeGeneration,omitempty"`
	HandedOverFrom  string    `json:"handedOverFrom,omitempty"`
	// Acts in the order in which they were granted. In a record: the one act.
	Acts []drain.Act `json:"acts"`
	// Ended is how it ended; nil: it did not live to.
	Ended *Ended `json:"ended,omitempty"`
}

// Ended is how an execution ended that is still to be told.
type Ended struct {
	ID          string            `json:"id"`
	At          time.Time         `json:"at"`
	Outcome     drain.Outcome     `json:"outcome,omitempty"`
	Reason      string            `json:"reason,omitempty"`
	Status      int               `json:"status,omitempty"`
	Disposition drain.Disposition `json:"disposition,omitempty"`
	Why         string            `json:"why,omitempty"`
}

// record is one line; exactly one field is set.
type record struct {
	Grant *Execution `json:"grant,omitempty"`
	Ended *Ended     `json:"ended,omitempty"`
	// End: forget it.
	End string `json:"end,omitempty"`
}

// compactAfter is the size at which the file is rewritten with what is still open.
const compactAfter = 4 << 20

// maxLine bounds one record.
const maxLine = 1 << 20

// keepEnded bounds the executions that have ended and are kept until somebody has been told. Beyond it the oldest are forgotten: the control
// plane keeps no more of a version either.
const keepEnded = 20_000

// Journal is an open file. It may be used from many goroutines; one process at a time may have it open.
type Journal struct {
	path string

	mu       sync.Mutex // everything below
	file     *os.File
	size     int64
	written  uint64                // records written to the file
	synced   uint64                // of them, on disk for sure
	syncing  bool                  // one goroutine is in fsync; the others wait for it
	advanced *sync.Cond            // synced, syncing or broken changed
	broken   error                 // the first failure; final
	open     map[string]*Execution // granted something, not forgotten
	ended    []string              // of open: in the order in which they ended; some may be forgotten by now
	compacts int64                 // size at which to compact next
}

// Open reads the journal at path, creating it if there is none, and returns the executions that were left open, oldest grant first. damaged
// counts lines that were not readable: one is normal after a crash in the middle of a write.
func Open(path string) (j *Journal, left []Execution, damaged int, err error) {
	j = &Journal{path: path, open: map[string]*Execution{}}
	j.advanced = sync.NewCond(&j.mu)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, 0, fmt.Errorf("journal: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxLine+16)
	for lines.Scan() {
		r, ok := decode(lines.Bytes())
		switch {
		case !ok:
			damaged++
		case r.Grant != nil:
			j.add(r.Grant)
		case r.Ended != nil:
			j.end(r.Ended)
		default:
			delete(j.open, r.End)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, nil, 0, fmt.Errorf("journal %s: %w; move the file away to start without it", path, err)
	}
	left = j.list()
	if err := j.rewrite(); err != nil {
		return nil, nil, 0, fmt.Errorf("journal %s: %w", path, err)
	}
	return j, left, damaged, nil
}

// add takes a grant into the open executions.
func (j *Journal) add(g *Execution) {
	if x, ok := j.open[g.ID]; ok {
		x.Acts = append(x.Acts, g.Acts...)
		return
	}
	x := *g
	x.Acts = slices.Clone(g.Acts)
	j.open[g.ID] = &x
}

// end takes an end into the open executions; false if nothing was granted.
func (j *Journal) end(e *Ended) bool {
	x, ok := j.open[e.ID]
	if ok {
		x.Ended = e
		j.ended = append(j.ended, e.ID)
	}
	return ok
}

// list is what is open, oldest grant first.
func (j *Journal) list() []Execution {
	var all []Execution
	for _, x := range j.open {
		all = append(all, *x)
	}
	slices.SortFunc(all, func(a, b Execution) int {
		return cmp.Or(a.Acts[0].At.Compare(b.Acts[0].At), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// Grant writes one act of an execution and returns when it is on disk. After an error the act must not happen.
func (j *Journal) Grant(x Execution, act drain.Act) error {
	x.Acts = []drain.Act{act}
	line := encode(record{Grant: &x})
	if len(line) > maxLine {
		return fmt.Errorf("journal: the act of execution %s takes %d bytes: at most %d; shorten its key or compensation", x.ID, len(line), maxLine)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.write(line); err != nil {
		return err
	}
	j.add(&x)
	return j.sync(j.written)
}

// Finish says how an execution ended whose end is still to be told. It is written at once but not forced to disk: a process that is killed loses
// nothing, and after a crash of the machine it counts as one that did not live to its end. Of an execution that was granted nothing it does nothing.
func (j *Journal) Finish(e Ended) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.end(&e) {
		return nil
	}
	if err := j.write(encode(record{Ended: &e})); err != nil {
		return err
	}
	for len(j.ended) > keepEnded {
		oldest := j.ended[0]
		j.ended = j.ended[1:]
		if err := j.forget(oldest); err != nil {
			return err
		}
	}
	return j.compact()
}

// End says that there is nothing more to tell of an execution. A lost one is told twice, which does no harm.
func (j *Journal) End(id string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(j.ended) > 0 && j.open[j.ended[0]] == nil {
		j.ended = j.ended[1:]
	}
	if err := j.forget(id); err != nil {
		return err
	}
	return j.compact()
}

// forget an execution, if it is there. mu is held.
func (j *Journal) forget(id string) error {
	if _, ok := j.open[id]; !ok {
		return nil
	}
	delete(j.open, id)
	return j.write(encode(record{End: id}))
}

// compact rewrites the file when it has grown. mu is held.
func (j *Journal) compact() error {
	if j.size < j.compacts || j.syncing || j.broken != nil {
		return nil
	}
	return j.fail(j.rewrite())
}

// write appends a line. mu is held.
func (j *Journal) write(line []byte) error {
	if j.broken != nil {
		return j.broken
	}
	n, err := j.file.Write(line)
	j.size += int64(n)
	if err != nil {
		return j.fail(err)
	}
	j.written++
	return nil
}

// sync returns when the first `upTo` records are on disk. Whoever finds no fsync under way does one for all that wait. mu is held, but not
// during the fsync.
func (j *Journal) sync(upTo uint64) error {
	for j.synced < upTo && j.broken == nil {
		if j.syncing {
			j.advanced.Wait()
			continue
		}
		covers, file := j.written, j.file
		j.syncing = true
		j.mu.Unlock()
		err := file.Sync()
		j.mu.Lock()
		j.syncing = false
		if err == nil {
			j.synced = covers
		}
		_ = j.fail(err)
		j.advanced.Broadcast()
	}
	if j.synced >= upTo {
		return nil
	}
	return j.broken
}

// fail makes the first error final: after a failed fsync the kernel may have dropped the pages, and a later one would succeed without them.
func (j *Journal) fail(err error) error {
	if err != nil && j.broken == nil {
		j.broken = fmt.Errorf("journal %s: %w: no act is granted any more; make room on the disk and restart the sidecar", j.path, err)
	}
	return j.broken
}

// rewrite replaces the file by one that holds only what is open, in one step. mu is held (or nobody else has the journal yet).
func (j *Journal) rewrite() error {
	var content []byte
	for _, x := range j.list() {
		for _, act := range x.Acts {
			one := x
			one.Acts, one.Ended = []drain.Act{act}, nil
			content = append(content, encode(record{Grant: &one})...)
		}
		if x.Ended != nil {
			content = append(content, encode(record{Ended: x.Ended})...)
		}
	}
	next := j.path + ".next"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync()); err == nil {
		err = os.Rename(next, j.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(j.path))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if j.file != nil {
		err = j.file.Close()
	}
	j.file, j.size, j.compacts = f, int64(len(content)), int64(len(content))+compactAfter
	j.synced = j.written
	return err
}

// Close forces what was written to disk and closes the file.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.sync(j.written)
	if j.broken == nil {
		j.broken = errors.New("journal: closed")
	}
	return errors.Join(err, j.file.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encode(r record) []byte {
	data, err := json.Marshal(r)
	if err != nil {
		panic("journal: " + err.Error()) // strings, times and numbers always marshal
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(data, castagnoli), data)
}

func decode(line []byte) (record, bool) {
	sum, data, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return record{}, false
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil || want != uint64(crc32.Checksum(data, castagnoli)) {
		return record{}, false
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, false
	}
	set := 0
	for _, is := range []bool{r.Grant != nil && r.Grant.ID != "" && len(r.Grant.Acts) > 0, r.Ended != nil && r.Ended.ID != "", r.End != ""} {
		if is {
			set++
		}
	}
	return r, set == 1
}
