package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// maxTxnOps lets one transaction roll back hundreds of specs; etcd's own default is 128.
	maxTxnOps = 4096
	// maxRequestBytes bounds one transaction.
	maxRequestBytes = 8 << 20
	// quotaBytes is the largest database that etcd recommends. Reaching it makes etcd read-only.
	quotaBytes = 8 << 30
	// keptRevisions is how far back the embedded member remembers what happened.
	keptRevisions = "10000"

	dialTimeout = 5 * time.Second
)

// connect returns a client of the etcd that the options name, and how to end it.
func connect(ctx context.Context, o Options, log *zap.Logger) (*clientv3.Client, func() error, error) {
	log = log.Named("etcd")
	if len(o.Endpoints) > 0 {
		client, err := clientv3.New(clientv3.Config{
			Endpoints:            o.Endpoints,
			TLS:                  o.TLS,
			DialTimeout:          dialTimeout,
			DialKeepAliveTime:    dialTimeout,
			DialKeepAliveTimeout: dialTimeout,
			MaxCallSendMsgSize:   maxRequestBytes,
			Logger:               log.WithOptions(zap.IncreaseLevel(max(zapcore.WarnLevel, log.Level()))),
		})
		if err != nil {
			return nil, nil, fmt.Errorf("etcd endpoints %v: %w: check --etcd-endpoints", o.Endpoints, err)
		}
		return client, client.Close, nil
	}
	return embedded(ctx, o.DataDir, log)
}

// embedded starts the single member that lives in this process and opens no port: only this process can reach it.
func embedded(ctx context.Context, dir string, log *zap.Logger) (*clientv3.Client, func() error, error) {
	if dir == "" {
		return nil, nil, errors.New("no data directory: give one with --data-dir, or an etcd cluster with --etcd-endpoints")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("data directory: %w: give another one with --data-dir", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, nil, err
	}
	// At its start etcd warns of settings that are meant: it is told to serve nobody but this process.
	level := zap.NewAtomicLevelAt(max(zapcore.ErrorLevel, log.Level()))
	member, err := embed.StartEtcd(memberConfig(dir, log.WithOptions(zap.IncreaseLevel(level), withoutNoise)))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start the embedded etcd in %s: %w", dir, err), unlock())
	}
	stop := func() error {
		level.SetLevel(max(zapcore.ErrorLevel, log.Level())) // Likewise of what it cannot finish any more.
		member.Close()
		return unlock()
	}
	select {
	case <-member.Server.ReadyNotify():
	case err := <-member.Err():
		return nil, nil, errors.Join(fmt.Errorf("start the embedded etcd in %s: %w", dir, err), stop())
	case <-ctx.Done():
		return nil, nil, errors.Join(fmt.Errorf("start the embedded etcd in %s: %w", dir, context.Cause(ctx)), stop())
	}
	level.SetLevel(max(zapcore.WarnLevel, log.Level()))
	client := v3client.New(member.Server)
	return client, func() error {
		return errors.Join(ignoreCanceled(client.Close()), stop())
	}, nil
}

func memberConfig(dir string, log *zap.Logger) *embed.Config {
	c := embed.NewConfig()
	c.Name = "specproxy"
	c.Dir = filepath.Join(dir, "etcd")
	// No listeners: a single member has no peers, and its only client is in this process. The advertised peer URL is a name, never dialled.
	c.ListenPeerUrls, c.ListenClientUrls, c.AdvertiseClientUrls = nil, nil, nil
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	// A single member always wins its election: the sooner it holds it, the sooner it serves.
	c.TickMs, c.ElectionMs = 10, 100
	c.EnableGRPCGateway = false
	c.AutoCompactionMode = "revision"
	c.AutoCompactionRetention = keptRevisions
	c.MaxTxnOps = maxTxnOps
	c.MaxRequestBytes = maxRequestBytes
	c.QuotaBackendBytes = quotaBytes
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	return c
}

// ignoreCanceled drops the error by which a client says that its own Close ended it.
func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
