package store

import (
	"fmt"
	"strings"

	"github.com/hashicorp/go-memdb"
)

// row is one record in a table of the view.
type row struct {
	// path of the key below its kind; unique in its table.
	path string
	// pool is the path of the record's pool and itself; empty where the kind has none.
	pool string
	// rev is etcd's mod revision; unwritten for a row that a transaction has not committed yet.
	rev int64
	// value is nil only if the record was never legible.
	value any
	// err says that what etcd holds now is damaged; value is then the last one that was legible.
	err error
}

// unwritten marks rows that only their own transaction sees.
const unwritten = -1

// Names of the indexes.
const (
	byPath = "id" // go-memdb wants its primary index to have this name.
	byPool = "pool"
)

// newTables makes the empty database: a table for each kind.
func newTables() (*memdb.MemDB, error) {
	schema := &memdb.DBSchema{Tables: make(map[string]*memdb.TableSchema, len(kinds))}
	for name, k := range kinds {
		t := &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{
			byPath: {Name: byPath, Unique: true, Indexer: textIndex(func(r *row) string { return r.path })},
		}}
		if k.pool != nil {
			t.Indexes[byPool] = &memdb.IndexSchema{Name: byPool, Unique: true, AllowMissing: true, Indexer: textIndex(func(r *row) string { return r.pool })}
		}
		for index, text := range k.indexes {
			t.Indexes[index] = &memdb.IndexSchema{Name: index, Unique: true, AllowMissing: true, Indexer: textIndex(func(r *row) string {
				if r.value == nil {
					return ""
				}
				return text(r.value)
			})}
		}
		schema.Tables[name] = t
	}
	db, err := memdb.NewMemDB(schema)
	if err != nil {
		return nil, fmt.Errorf("tables of the view: %w", err)
	}
	return db, nil
}

// textIndex orders rows by one of their texts, and finds them by a prefix of it.
type textIndex func(*row) string

// FromObject implements memdb.SingleIndexer.
func (f textIndex) FromObject(raw any) (bool, []byte, error) {
	text := f(raw.(*row))
	return text != "", append([]byte(text), 0), nil
}

// FromArgs implements memdb.Indexer.
func (f textIndex) FromArgs(args ...any) ([]byte, error) {
	return append([]byte(args[0].(string)), 0), nil
}

// PrefixFromArgs implements memdb.PrefixIndexer.
func (f textIndex) PrefixFromArgs(args ...any) ([]byte, error) { return []byte(args[0].(string)), nil }

// first returns the row with this path.
func first(txn *memdb.Txn, k *kind, path string) (*row, bool) {
	raw, err := txn.First(k.name, byPath, path)
	if err != nil {
		panic(fmt.Sprintf("store: table %s: %v", k.name, err)) // The schema is ours: only a wrong index name gets here.
	}
	if raw == nil {
		return nil, false
	}
	return raw.(*row), true
}

// scan returns the rows whose indexed text begins with the prefix, in the order of that text.
func scan(txn *memdb.Txn, k *kind, index, prefix string) []*row {
	it, err := txn.Get(k.name, index+"_prefix", prefix)
	if err != nil {
		panic(fmt.Sprintf("store: table %s: %v", k.name, err)) // As above.
	}
	var rows []*row
	for raw := it.Next(); raw != nil; raw = it.Next() {
		rows = append(rows, raw.(*row))
	}
	return rows
}

// span is a part of one index: the rows whose text begins with the prefix and comes after (backward: before) the text from, if that is set.
type span struct {
	index, prefix, from string
	backward            bool
	// limit is the most rows to return; 0: all.
	limit int
}

// walk returns the rows of a span in the order of its walk. It costs the rows it returns, and finding the first.
func walk(txn *memdb.Txn, k *kind, s span) []*row {
	var rows []*row
	each(txn, k, s, func(r *row) bool {
		rows = append(rows, r)
		return len(rows) != s.limit
	})
	return rows
}

// each calls fn for the rows of a span until it returns false.
func each(txn *memdb.Txn, k *kind, s span, fn func(*row) bool) {
	text := textOf(k, s.index)
	seek, begin := txn.LowerBound, max(s.prefix, s.from)
	if s.backward {
		seek, begin = txn.ReverseLowerBound, s.prefix+"\xff"
		if s.from != "" {
			begin = min(begin, s.from)
		}
	}
	it, err := seek(k.name, s.index, begin)
	if err != nil {
		panic(fmt.Sprintf("store: table %s: %v", k.name, err)) // The schema is ours: only a wrong index name gets here.
	}
	for raw := it.Next(); raw != nil; raw = it.Next() {
		r := raw.(*row)
		at := text(r)
		if at == s.from && s.from != "" {
			continue
		}
		if !strings.HasPrefix(at, s.prefix) || !fn(r) {
			return
		}
	}
}

// textOf is what the named index orders by.
func textOf(k *kind, index string) func(*row) string {
	switch index {
	case byPath:
		return func(r *row) string { return r.path }
	case byPool:
		return func(r *row) string { return r.pool }
	}
	text := k.indexes[index]
	return func(r *row) string { return text(r.value) }
}

// insert puts a row in place of the one with the same path.
func insert(txn *memdb.Txn, k *kind, r *row) {
	if r.value != nil && k.pool != nil {
		r.pool = k.pool(r.value)
	}
	if err := txn.Insert(k.name, r); err != nil {
		panic(fmt.Sprintf("store: table %s: %v", k.name, err)) // As above.
	}
}

// remove deletes the row with this path, if it is there.
func remove(txn *memdb.Txn, k *kind, path string) (*row, bool) {
	r, ok := first(txn, k, path)
	if ok {
		if err := txn.Delete(k.name, r); err != nil {
			panic(fmt.Sprintf("store: table %s: %v", k.name, err)) // As above.
		}
	}
	return r, ok
}
