package store

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-memdb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Options says where the truth is.
type Options struct {
	// DataDir holds the embedded etcd member; one process at a time may have it open. Not used with Endpoints.
	DataDir string
	// Endpoints of an etcd cluster, host:port or URL; empty: an embedded member.
	Endpoints []string
	// TLS of the connections to Endpoints; nil: none.
	TLS *tls.Config
	// Name of this replica among those that use Endpoints, for people.
	Name string
	Log  *zap.Logger
	// OnCommit lets a test end the process at a write: it is called before (done false) and after (done true) each transaction is sent.
	OnCommit func(done bool)
}

// firstContact bounds how long Open waits for an etcd cluster.
const firstContact = 10 * time.Second

// Store is this replica's access to the records. Its methods may be called by any number of goroutines.
type Store struct {
	log    *zap.Logger
	client *clientv3.Client
	// stop ends the embedded member and gives up its directory.
	stop func() error
	feed feed
	// member is nil if this process is the only one that uses its etcd.
	member *member
	// tables are written by Open, then by the follower alone.
	tables *memdb.MemDB
	// retrying is held by the one Update that may retry.
	retrying chan struct{}
	onCommit func(done bool)

	// closing is closed when Close begins, followed when the follower has ended.
	closing  chan struct{}
	followed chan struct{}
	close    func() error
}

// Open starts or joins etcd and returns once the view holds every record.
func Open(ctx context.Context, o Options) (*Store, error) {
	log := o.Log
	if log == nil {
		log = zap.NewNop()
	}
	tables, err := newTables()
	if err != nil {
		return nil, err
	}
	client, stop, err := connect(ctx, o, log)
	if err != nil {
		return nil, err
	}
	if o.OnCommit == nil {
		o.OnCommit = func(bool) {}
	}
	s := &Store{
		log:      log,
		client:   client,
		stop:     stop,
		tables:   tables,
		retrying: make(chan struct{}, 1),
		onCommit: o.OnCommit,
		closing:  make(chan struct{}),
		followed: make(chan struct{}),
	}
	rev, err := s.start(ctx, o)
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	following, end := context.WithCancel(context.Background())
	var belonging sync.WaitGroup
	if len(o.Endpoints) > 0 {
		s.member = newMember(s, o.Name)
		belonging.Go(func() { s.member.belong(following) })
	}
	s.close = sync.OnceValue(func() error {
		close(s.closing)
		end()
		belonging.Wait()
		<-s.followed
		return s.stop()
	})
	go func() {
		defer close(s.followed)
		s.follow(following, rev)
	}()
	return s, nil
}

// Close ends the store. Waiting calls return ErrClosed; views stay legible.
func (s *Store) Close() error { return s.close() }

// start makes sure of the secret and fills the first view.
func (s *Store) start(ctx context.Context, o Options) (int64, error) {
	if len(o.Endpoints) > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, firstContact, fmt.Errorf("no answer within %s", firstContact))
		defer cancel()
	}
	if err := s.ensureSecret(ctx); err != nil {
		return 0, contactError(ctx, o, err)
	}
	kvs, rev, err := s.load(ctx)
	if err != nil {
		return 0, contactError(ctx, o, err)
	}
	return rev, errors.Join(s.fill(kvs, rev)...)
}

// ensureSecret writes the cluster's secret if there is none.
func (s *Store) ensureSecret(ctx context.Context) error {
	random := make([]byte, 32)
	rand.Read(random) // Never fails, by its documentation.
	data, err := json.Marshal(secret{Bytes: random})
	if err != nil {
		return fmt.Errorf("the cluster's secret: %w", err)
	}
	key := fullKey(secrets, clusterSecret)
	_, err = s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(data)), clientv3.OpPut(head, string(markValue))).
		Commit()
	return err
}

// contactError names the etcd that did not serve.
func contactError(ctx context.Context, o Options, err error) error {
	if len(o.Endpoints) == 0 {
		return fmt.Errorf("embedded etcd in %s: %w", o.DataDir, err)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("etcd at %s: %w: check --etcd-endpoints and that the cluster is healthy", strings.Join(o.Endpoints, ","), err)
}
