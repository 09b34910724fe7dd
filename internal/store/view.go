package store

import (
	"github.com/hashicorp/go-memdb"

	"github.com/specproxy/specproxy/internal/routing"
)

// View is this replica's records at one revision. It never changes, and any number of goroutines may read it.
type View struct {
	reader
	rev int64
	// proxies is the newest revision that changed a record of a proxy, or of a replica that serves proxies, or of what those said.
	proxies int64
	db      *memdb.MemDB
}

var _ Reader = (*View)(nil)

func newView(db *memdb.MemDB, rev, proxies int64) *View {
	v := &View{rev: rev, proxies: proxies, db: db.Snapshot()}
	v.reader = reader{v}
	return v
}

// Revision is the etcd revision of the newest record in the view.
func (v *View) Revision() int64 { return v.rev }

// ProxiesRevision is the newest revision at which anything about proxies changed: their records, Replicas, Acks.
func (v *View) ProxiesRevision() int64 { return v.proxies }

// Replicas are those that live, by id. A control plane that is alone has none.
func (v *View) Replicas() []routing.Replica {
	return values[routing.Replica](v.list(replicas, ""))
}

// Acks of a spec's route by the proxies of each replica that lives, or of every spec's if spec is empty, by spec and replica.
func (v *View) Acks(spec string) []routing.Acks {
	prefix := ""
	if spec != "" {
		prefix = within(spec)
	}
	return values[routing.Acks](v.list(acks, prefix))
}

func (v *View) get(k *kind, path string) (*row, bool) { return first(v.db.Txn(false), k, path) }

func (v *View) list(k *kind, prefix string) []*row { return scan(v.db.Txn(false), k, byPath, prefix) }

func (v *View) members(k *kind, prefix string) []*row {
	return scan(v.db.Txn(false), k, byPool, prefix)
}

func (v *View) walk(k *kind, s span, _ string) []*row { return walk(v.db.Txn(false), k, s) }
