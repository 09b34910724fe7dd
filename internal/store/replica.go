package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/routing"
)

const (
	// leaseSeconds after which a replica that etcd has not heard of is dead to the others.
	leaseSeconds = 6
	// leaveTimeout bounds how long a replica takes to say that it ends; else its lease says it later.
	leaveTimeout = time.Second
	// ballots is the prefix of the keys by which a leader is elected. No kind of record has this name.
	ballots = root + "leader"
)

// errNotMember is the error of who would speak as a replica that the others take for dead.
var errNotMember = errors.New("this replica has lost its lease in etcd and is joining again")

// member is this process as one replica of several. Its lease in etcd holds the records that end with it.
type member struct {
	store *Store
	name  string

	mu      sync.Mutex
	session *concurrency.Session // nil while there is none
	changed chan struct{}        // closed and replaced when session changes
}

func newMember(s *Store, name string) *member {
	return &member{store: s, name: name, changed: make(chan struct{})}
}

func idOf(session *concurrency.Session) string { return strconv.FormatInt(int64(session.Lease()), 16) }

// belong keeps this replica a member until ctx ends. Each lease is another member to the others.
func (m *member) belong(ctx context.Context) {
	for ctx.Err() == nil {
		session, err := m.join(ctx)
		if err != nil {
			if ctx.Err() == nil {
				m.store.log.Warn("could not join the other replicas; trying again", zap.Error(err))
			}
			pause(ctx)
			continue
		}
		m.set(session)
		select {
		case <-session.Done():
			m.store.log.Warn("lost the lease in etcd: the other replicas take this one for dead until it has joined again")
		case <-ctx.Done():
		}
		m.set(nil)
		m.leave(session)
	}
}

func (m *member) join(ctx context.Context) (*concurrency.Session, error) {
	session, err := concurrency.NewSession(m.store.client, concurrency.WithTTL(leaseSeconds), concurrency.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("get a lease from etcd: %w", err)
	}
	if err := m.announce(ctx, session, false); err != nil {
		m.leave(session)
		return nil, err
	}
	return session, nil
}

// announce writes the record of this replica.
func (m *member) announce(ctx context.Context, session *concurrency.Session, leader bool) error {
	r := routing.Replica{ID: idOf(session), Name: m.name, Since: time.Now().UTC(), Leader: leader}
	return m.write(ctx, session, map[string]any{fullKey(replicas, path(r.ID)): r})
}

// write puts records that end with the lease; nil deletes one. It is one transaction, without conditions: nobody else writes these keys.
func (m *member) write(ctx context.Context, session *concurrency.Session, records map[string]any) error {
	ops := make([]clientv3.Op, 0, len(records))
	for key, record := range records {
		if record == nil {
			ops = append(ops, clientv3.OpDelete(key))
			continue
		}
		data, err := json.Marshal(record)
		if err != nil {
			return fmt.Errorf("record %s cannot be written as JSON: %w", key, err)
		}
		ops = append(ops, clientv3.OpPut(key, string(data), clientv3.WithLease(session.Lease())))
	}
	if _, err := m.store.client.Txn(ctx).Then(ops...).Commit(); err != nil {
		return fmt.Errorf("write what the other replicas are to know: %w", err)
	}
	return nil
}

// leave gives the lease up, and with it what this replica has told.
func (m *member) leave(session *concurrency.Session) {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	session.Orphan()
	if _, err := m.store.client.Revoke(ctx, session.Lease()); err != nil {
		m.store.log.Debug("give up the lease", zap.Error(err)) // it runs out
	}
}

func (m *member) set(session *concurrency.Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.session = session
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *member) current() (*concurrency.Session, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.session, m.changed
}

// Self is the id of this replica in View.Replicas. It is empty if this process is the only one that uses its etcd, and while this replica is
// not a member; changed is closed when the answer changes.
func (s *Store) Self() (id string, changed <-chan struct{}) {
	if s.member == nil {
		return "", nil
	}
	session, changed := s.member.current()
	if session == nil {
		return "", changed
	}
	return idOf(session), changed
}

// SaveAcks tells the other replicas what the proxies of this one, which is self, said. An Acks without proxies deletes the one of its spec.
// It is an error if this replica is self no more.
func (s *Store) SaveAcks(ctx context.Context, self string, all []routing.Acks) error {
	session, _ := s.member.current()
	if session == nil || idOf(session) != self {
		return errNotMember
	}
	records := make(map[string]any, len(all))
	for _, a := range all {
		a.Replica = self
		key := fullKey(acks, path(a.Spec, self))
		if records[key] = a; len(a.Proxies) == 0 {
			records[key] = nil
		}
	}
	return s.member.write(ctx, session, records)
}

// Lead runs lead on one replica at a time: here, whenever this one is elected, with a context that ends when it is no longer, and again when
// it is elected again. It returns when ctx has ended, or with the error of lead. Two may run for a moment when etcd cannot be reached: every
// write is a transaction with conditions, so the late one changes nothing that it has not seen.
func (s *Store) Lead(ctx context.Context, lead func(context.Context) error) error {
	if s.member == nil {
		return lead(ctx)
	}
	for {
		session, changed := s.member.current()
		if session == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := s.member.term(ctx, session, lead); err != nil || ctx.Err() != nil {
			return err
		}
		pause(ctx)
	}
}

// term is one candidacy, and the time as a leader that follows from it. It returns no error when it ended with the session.
func (m *member) term(ctx context.Context, session *concurrency.Session, lead func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lost := context.AfterFunc(session.Ctx(), cancel)
	defer lost()
	election := concurrency.NewElection(session, ballots)
	if err := election.Campaign(ctx, m.name); err != nil {
		if ctx.Err() == nil {
			m.store.log.Warn("could not stand for election; trying again", zap.Error(err))
		}
		return nil
	}
	if err := m.announce(ctx, session, true); err != nil {
		m.store.log.Warn("leads, but cannot say so", zap.Error(err))
	}
	m.store.log.Info("this replica leads", zap.String("replica", m.name))
	err := lead(ctx)
	select {
	case <-session.Done():
		return nil
	default:
	}
	resigning, done := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer done()
	if late := election.Resign(resigning); late != nil {
		m.store.log.Debug("resign", zap.Error(late)) // the lease runs out
	}
	return err
}
