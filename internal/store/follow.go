package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const (
	// pageSize is how many records one request of a full read brings.
	pageSize = 1000
	// retryPause is how long the follower waits after etcd refused it.
	retryPause = 200 * time.Millisecond
)

// load reads every record at one revision.
func (s *Store) load(ctx context.Context) ([]*mvccpb.KeyValue, int64, error) {
	var (
		all []*mvccpb.KeyValue
		rev int64
		key = root
		end = clientv3.GetPrefixRangeEnd(root)
	)
	for {
		resp, err := s.client.Get(ctx, key, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(rev))
		if err != nil {
			return nil, 0, fmt.Errorf("read all records from etcd: %w", err)
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		all = append(all, resp.Kvs...)
		if !resp.More || len(resp.Kvs) == 0 {
			return all, rev, nil
		}
		key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// fill replaces the whole view. It returns the damaged records, which keep the value they had.
func (s *Store) fill(kvs []*mvccpb.KeyValue, rev int64) []error {
	old := s.tables.Txn(false)
	txn := s.tables.Txn(true)
	for name := range kinds {
		if _, err := txn.DeleteAll(name, byPath+"_prefix", ""); err != nil {
			panic(fmt.Sprintf("store: table %s: %v", name, err)) // The schema is ours: only a wrong index name gets here.
		}
	}
	var damaged []error
	for _, kv := range kvs {
		k, path, ok := splitKey(string(kv.Key))
		if !ok {
			continue
		}
		before, _ := first(old, k, path)
		r := decode(k, path, kv, before)
		if r.err != nil {
			damaged = append(damaged, r.err)
		}
		insert(txn, k, r)
	}
	txn.Commit()
	s.feed.reset(newView(s.tables, rev, rev))
	return damaged
}

// decode makes a row of what etcd holds. If that is damaged the row keeps the value it had before.
func decode(k *kind, path string, kv *mvccpb.KeyValue, before *row) *row {
	r := &row{path: path, rev: kv.ModRevision}
	value, err := k.decode(kv.Value)
	if err == nil {
		r.value = value
		return r
	}
	r.err = fmt.Errorf("record %s is damaged: %w: restore it from a backup of the data directory, or write it again with etcdctl put", kv.Key, err)
	if before != nil {
		r.value = before.value
	}
	return r
}

// follow applies what etcd does after the revision, until ctx ends. It is the only writer of the tables.
func (s *Store) follow(ctx context.Context, after int64) {
	for ctx.Err() == nil {
		err := s.watch(ctx, after)
		after = s.View().rev
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, rpctypes.ErrCompacted):
			s.log.Warn("etcd has compacted what this replica had not seen: reading everything again", zap.Int64("revision", after))
			after, err = s.reload(ctx, after)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("lost the watch on etcd: the view stays as it is until it is back", zap.Int64("revision", after), zap.Error(err))
		}
		pause(ctx)
	}
}

// reload reads everything again and returns the revision reached.
func (s *Store) reload(ctx context.Context, after int64) (int64, error) {
	kvs, rev, err := s.load(ctx)
	if err != nil {
		return after, err
	}
	if rev < after {
		return after, fmt.Errorf("etcd is at revision %d, behind revision %d that this replica has seen: restart every replica if etcd was restored from a backup", rev, after)
	}
	for _, damage := range s.fill(kvs, rev) {
		s.log.Error("kept the last legible value", zap.Error(damage))
	}
	return rev, nil
}

// watch applies events until the watch ends, and says why it did.
func (s *Store) watch(ctx context.Context, after int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A member that has lost its leader ends the watch, so that the client goes to another one.
	for resp := range s.client.Watch(clientv3.WithRequireLeader(ctx), root, clientv3.WithPrefix(), clientv3.WithRev(after+1)) {
		if err := resp.Err(); err != nil {
			return err
		}
		s.apply(resp.Events)
	}
	return ctx.Err()
}

// apply publishes one view for each revision in the events, which come in revision order and never split one.
func (s *Store) apply(events []*clientv3.Event) {
	for len(events) > 0 {
		rev := events[0].Kv.ModRevision
		n := slices.IndexFunc(events, func(e *clientv3.Event) bool { return e.Kv.ModRevision != rev })
		if n < 0 {
			n = len(events)
		}
		s.applyRevision(rev, events[:n])
		events = events[n:]
	}
}

func (s *Store) applyRevision(rev int64, events []*clientv3.Event) {
	txn := s.tables.Txn(true)
	var specs []string
	proxies := s.View().proxies
	for _, e := range events {
		k, path, ok := splitKey(string(e.Kv.Key))
		if !ok {
			continue
		}
		if k.proxies {
			proxies = rev
		}
		before, _ := first(txn, k, path)
		if before != nil && before.value != nil {
			specs = append(specs, k.specs(before.value)...)
		}
		if e.Type == clientv3.EventTypeDelete {
			remove(txn, k, path)
			continue
		}
		r := decode(k, path, e.Kv, before)
		if r.err != nil {
			s.log.Error("kept the last legible value", zap.Error(r.err))
		}
		if r.value != nil {
			specs = append(specs, k.specs(r.value)...)
		}
		insert(txn, k, r)
	}
	txn.Commit()
	slices.Sort(specs)
	s.feed.advance(newView(s.tables, rev, proxies), slices.Compact(specs))
}

// pause keeps the follower from hammering an etcd that refuses it.
func pause(ctx context.Context) {
	t := time.NewTimer(retryPause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
