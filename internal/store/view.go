package store

import "github.com/hashicorp/go-memdb"

// View is this replica's records at one revision. It never changes, and any number of goroutines may read it.
type View struct {
	reader
	rev int64
	db  *memdb.MemDB
}

var _ Reader = (*View)(nil)

func newView(db *memdb.MemDB, rev int64) *View {
	v := &View{rev: rev, db: db.Snapshot()}
	v.reader = reader{v}
	return v
}

// Revision is the etcd revision of the newest record in the view.
func (v *View) Revision() int64 { return v.rev }

func (v *View) get(k *kind, path string) (*row, bool) { return first(v.db.Txn(false), k, path) }

func (v *View) list(k *kind, prefix string) []*row { return scan(v.db.Txn(false), k, byPath, prefix) }

func (v *View) members(k *kind, prefix string) []*row {
	return scan(v.db.Txn(false), k, byPool, prefix)
}

func (v *View) walk(k *kind, s span, _ string) []*row { return walk(v.db.Txn(false), k, s) }
