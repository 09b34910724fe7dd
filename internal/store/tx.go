package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/go-memdb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/versions"
)

// Tx is what the function of one Update reads and writes. It belongs to that call's goroutine and ends with it.
// Reads see the transaction's own writes. A write that would break an invariant makes the Update fail, whatever the function returns.
type Tx struct {
	reader
	rev int64
	// txn is a private copy of the view that takes the writes and is thrown away.
	txn *memdb.Txn

	// keys read, with the mod revision seen; 0: absent.
	keys map[string]int64
	// ranges are the prefixes listed: nothing in them may be newer than rev.
	ranges map[string]struct{}
	// writes by key; nil deletes.
	writes map[string][]byte
	err    error
}

var _ Reader = (*Tx)(nil)

func newTx(v *View) *Tx {
	t := &Tx{
		rev:    v.rev,
		txn:    v.db.Snapshot().Txn(true),
		keys:   make(map[string]int64),
		ranges: make(map[string]struct{}),
		writes: make(map[string][]byte),
	}
	t.reader = reader{t}
	return t
}

// Revision is the one that the transaction reads at.
func (t *Tx) Revision() int64 { return t.rev }

func (t *Tx) get(k *kind, path string) (*row, bool) {
	key := fullKey(k, path)
	r, ok := first(t.txn, k, path)
	if _, own := t.writes[key]; own {
		return r, ok
	}
	if !ok {
		t.keys[key] = 0
		return nil, false
	}
	t.keys[key] = r.rev
	t.check(r)
	return r, true
}

func (t *Tx) list(k *kind, prefix string) []*row {
	t.ranges[fullKey(k, prefix)] = struct{}{}
	return t.checked(scan(t.txn, k, byPath, prefix))
}

func (t *Tx) members(k *kind, prefix string) []*row {
	t.ranges[poolMarks(prefix)] = struct{}{}
	return t.checked(scan(t.txn, k, byPool, prefix))
}

func (t *Tx) walk(k *kind, s span, mark string) []*row {
	t.ranges[mark] = struct{}{}
	return t.checked(walk(t.txn, k, s))
}

func (t *Tx) checked(rows []*row) []*row {
	for _, r := range rows {
		t.check(r)
	}
	return rows
}

// check fails the transaction if it read a record that is damaged: what the view still shows of it is older than what etcd holds.
func (t *Tx) check(r *row) {
	if r.err != nil {
		t.fail(r.err)
	}
}

func (t *Tx) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// PutVersion writes a version's record. A digest that was written once can never change.
func (t *Tx) PutVersion(r versions.Record) {
	old, ok := t.Version(r.Spec, r.Version)
	if ok && old.Digest != r.Digest {
		t.fail(fmt.Errorf("version %s:%s is %s and cannot become %s: publish the change under another version number", r.Spec, r.Version, old.Digest, r.Digest))
	}
	if exitOf(old) != exitOf(r) {
		t.writes[exitMark(r.Spec)] = markValue
	}
	r.WasGood = r.EverGood() || old.EverGood() // what was good once stays that
	t.put(versionRecords, path(r.Spec, r.Version), r)
}

// PutRoute writes the route in force and its entry in the history. Generations only grow; within one the splits and header targets stay.
func (t *Tx) PutRoute(r routing.Route) {
	old, ok := t.Route(r.Spec)
	switch {
	case r.Generation == 0:
		t.fail(fmt.Errorf("route of %s has no generation", r.Spec))
	case ok && r.Generation < old.Generation:
		t.fail(fmt.Errorf("route of %s is at generation %d: generation %d comes too late", r.Spec, old.Generation, r.Generation))
	case ok && r.Generation == old.Generation && !slices.Equal(old.Splits, r.Splits):
		t.fail(fmt.Errorf("route of %s: generation %d has other splits already", r.Spec, r.Generation))
	case ok && r.Generation == old.Generation && !r.Shadow.Same(old.Shadow):
		t.fail(fmt.Errorf("route of %s: generation %d has another shadow already", r.Spec, r.Generation))
	case ok && r.Generation == old.Generation && !routing.SameTargets(old.HeaderTargets, r.HeaderTargets):
		t.fail(fmt.Errorf("route of %s: generation %d has other header targets already", r.Spec, r.Generation))
	}
	t.put(routes, path(r.Spec), r)
	t.put(history, path(r.Spec, numbered(r.Generation)), r)
}

// PutInstance writes an instance. Its spec and version never change.
func (t *Tx) PutInstance(i routing.Instance) {
	if old, ok := t.Instance(i.ID); ok && (old.Spec != i.Spec || old.Version != i.Version) {
		t.fail(fmt.Errorf("instance %s runs %s:%s and cannot become %s:%s: register it under another id", i.ID, old.Spec, old.Version, i.Spec, i.Version))
	}
	t.put(instances, path(i.ID), i)
	t.writes[poolMarks(within(i.Spec, i.Version))] = markValue
}

// DeleteInstance deletes an instance, if there is one, with what it had counted.
func (t *Tx) DeleteInstance(id string) {
	i, ok := t.Instance(id)
	if !ok {
		return
	}
	t.delete(instances, path(id))
	t.dropCounted(i.Spec, i.Version, id)
	t.writes[poolMarks(within(i.Spec, i.Version))] = markValue
}

// PutDrain writes the version's drain in place of its earlier one.
func (t *Tx) PutDrain(d drain.Drain) { t.put(drains, path(d.Spec, d.Version), d) }

// NextPostMortemID returns "PM-1", then "PM-2": each id once, unless the Update fails.
func (t *Tx) NextPostMortemID() string { return t.nextID(postMortems.name, "PM") }

func (t *Tx) nextID(name, prefix string) string {
	c, _ := one[counter](t.reader, counters, name)
	c.Last++
	t.put(counters, name, c)
	return fmt.Sprintf("%s-%d", prefix, c.Last)
}

// ClaimHost gives a host name to a spec. A name that belongs to another spec cannot be claimed.
func (t *Tx) ClaimHost(host, spec string) {
	if owner, ok := t.HostOwner(host); ok && owner != spec {
		t.fail(fmt.Errorf("host %s belongs to %s: choose another for %s", host, owner, spec))
	}
	t.put(hosts, path(host), HostClaim{Host: host, Spec: spec})
}

// PutProxy writes a proxy.
func (t *Tx) PutProxy(p routing.Proxy) { t.put(proxies, path(p.Node), p) }

// PutFailures writes one batch. The same instance and sequence number again replaces it.
func (t *Tx) PutFailures(b FailureBatch) { t.put(failures, batchPath(b), b) }

// PutActs writes one batch, as PutFailures does.
func (t *Tx) PutActs(b ActBatch) { t.put(acts, batchPath(b), b) }

// PutSettled writes one batch, as PutFailures does.
func (t *Tx) PutSettled(b FailureBatch) { t.put(settled, batchPath(b), b) }

// DropSettled drops a batch as DropFailures does.
func (t *Tx) DropSettled(drop, next FailureBatch) { t.drop(settled, drop, next) }

func batchPath(b FailureBatch) string {
	return path(b.Spec, b.Version, batches, b.Instance, numbered(b.Seq))
}

// DropFailures deletes one batch and adds its records to what the next batch says was omitted, if both are still there.
func (t *Tx) DropFailures(drop, next FailureBatch) { t.drop(failures, drop, next) }

// DropActs drops a batch as DropFailures does.
func (t *Tx) DropActs(drop, next ActBatch) { t.drop(acts, drop, next) }

func (t *Tx) drop(k *kind, drop, next FailureBatch) {
	old, ok := one[FailureBatch](t.reader, k, batchPath(drop))
	heir, there := one[FailureBatch](t.reader, k, batchPath(next))
	if !ok || !there {
		return
	}
	heir.Omitted += old.Omitted + uint64(len(old.Executions))
	t.delete(k, batchPath(old))
	t.writes[batchesMark(k, old.Spec, old.Version)] = markValue
	t.put(k, batchPath(heir), heir)
}

// DeleteFailures deletes all of the version's failures.
func (t *Tx) DeleteFailures(spec, version string) {
	rows := t.list(failures, within(spec, version, batches))
	for _, r := range rows {
		t.delete(failures, r.path)
	}
	if len(rows) > 0 {
		t.writes[batchesMark(failures, spec, version)] = markValue
	}
}

// markValue is what marks hold; only their revision matters.
var markValue = []byte("{}")

func (t *Tx) put(k *kind, path string, value any) {
	if !named(path) {
		t.fail(fmt.Errorf("a record of %s lacks a part of its name: %q", k.name, path))
		return
	}
	data, err := json.Marshal(value)
	if err != nil {
		t.fail(fmt.Errorf("record %s cannot be written as JSON: %w", fullKey(k, path), err))
		return
	}
	insert(t.txn, k, &row{path: path, rev: unwritten, value: value})
	t.writes[fullKey(k, path)] = data
}

func (t *Tx) delete(k *kind, path string) {
	remove(t.txn, k, path)
	t.writes[fullKey(k, path)] = nil
}

// conditions under which what was read still holds.
func (t *Tx) conditions() []clientv3.Cmp {
	all := make([]clientv3.Cmp, 0, len(t.keys)+len(t.ranges))
	for key, rev := range t.keys {
		all = append(all, clientv3.Compare(clientv3.ModRevision(key), "=", rev))
	}
	for prefix := range t.ranges {
		all = append(all, clientv3.Compare(clientv3.ModRevision(prefix).WithPrefix(), "<", t.rev+1))
	}
	return all
}

// operations are the writes, and the head that says when they happened.
func (t *Tx) operations() []clientv3.Op {
	all := make([]clientv3.Op, 0, len(t.writes)+1)
	for key, data := range t.writes {
		if data == nil {
			all = append(all, clientv3.OpDelete(key))
		} else {
			all = append(all, clientv3.OpPut(key, string(data)))
		}
	}
	return append(all, clientv3.OpPut(head, string(markValue)))
}

// run calls the function. A broken invariant or a damaged record weighs more than what the function made of it.
func (t *Tx) run(fn func(*Tx) error) (err error) {
	defer t.txn.Abort()
	err = fn(t)
	return errors.Join(t.err, err)
}
