package store

import (
	"fmt"

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
