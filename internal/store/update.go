package store

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Update runs fn and commits what it wrote as one etcd transaction, if nothing that it read has changed meanwhile; else fn runs again on a
// newer view, until ctx ends. It returns the revision of the commit, once View holds it. An error of fn aborts and nothing is written.
// An Update that writes nothing reads one consistent view and returns its revision.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) (rev int64, err error) {
	rev, done, err := s.attempt(ctx, fn)
	if done || err != nil {
		return rev, err
	}
	// Those that lost once queue up, so that a crowd on one record costs each of them a few attempts and not one for each other.
	select {
	case s.retrying <- struct{}{}:
		defer func() { <-s.retrying }()
	case <-ctx.Done():
		return 0, fmt.Errorf("nothing was written: the record was changed by others again and again: %w", context.Cause(ctx))
	}
	for !done && err == nil {
		rev, done, err = s.attempt(ctx, fn)
	}
	return rev, err
}

// attempt is one try of an Update; not done and no error means a conflict that the view now shows.
func (s *Store) attempt(ctx context.Context, fn func(*Tx) error) (rev int64, done bool, err error) {
	view := s.View()
	tx := newTx(view)
	if err := tx.run(fn); err != nil {
		return 0, false, err
	}
	if len(tx.writes) == 0 {
		return view.rev, true, nil
	}
	ops := tx.operations()
	s.onCommit(false)
	resp, err := s.client.Txn(ctx).If(tx.conditions()...).Then(ops...).Else(clientv3.OpGet(head)).Commit()
	if err != nil {
		return 0, false, txnError(err, len(ops))
	}
	if resp.Succeeded {
		s.onCommit(true)
		if _, err := s.Wait(ctx, resp.Header.Revision-1); err != nil {
			return resp.Header.Revision, false, fmt.Errorf("committed at revision %d, but this replica has not seen it yet: %w", resp.Header.Revision, err)
		}
		return resp.Header.Revision, true, nil
	}
	newest := view.rev
	if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) == 1 {
		newest = kvs[0].ModRevision
	}
	if newest <= view.rev {
		return 0, false, fmt.Errorf("records under %s were just changed by something other than specproxy: repeat the command", root)
	}
	if _, err := s.Wait(ctx, newest-1); err != nil {
		return 0, false, fmt.Errorf("nothing was written, a conflicting change came first: %w", err)
	}
	return 0, false, nil
}

// Forget drops etcd's history of all that was overwritten or deleted before now, so that it cannot be read at an earlier revision any more. Whoever
// watches from before then reads everything anew.
func (s *Store) Forget(ctx context.Context) error {
	_, err := s.client.Compact(ctx, s.View().rev, clientv3.WithCompactPhysical())
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil // somebody else did
	}
	return err
}

// txnError says what a failed commit means for the caller.
func txnError(err error, ops int) error {
	switch {
	case errors.Is(err, rpctypes.ErrTooManyOps):
		return fmt.Errorf("nothing was written: a transaction of %d writes is more than etcd takes: start its members with --max-txn-ops=%d", ops, maxTxnOps)
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("nothing was written: the transaction is more than etcd takes: start its members with --max-request-bytes=%d", maxRequestBytes)
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("nothing was written: etcd's space quota is used up: compact and defragment it, then clear its alarm with etcdctl alarm disarm: %w", err)
	default:
		return fmt.Errorf("etcd did not confirm the transaction, which may or may not be written: look at the state before you repeat the command: %w", err)
	}
}
