package rig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// seedBatch is how many specs one transaction of the seed writes.
const seedBatch = 250

// SeededVersion is the one version of each spec that Seed writes.
const SeededVersion = "1.0.0"

// Seeded is the name of the i-th spec that Seed writes.
func Seeded(i int) string { return fmt.Sprintf("other-%05d", i) }

// Seed writes the records of a control plane that has been in use: specs of one version that hold their traffic, and one ready instance of
// each of the first specs at the address, if that is given. Publishing them one by one would write the same and take minutes.
func Seed(ctx context.Context, dataDir string, specs, served int, address string) error {
	numbers := make([]int, specs)
	for i := range numbers {
		numbers[i] = i
	}
	return write(ctx, dataDir, numbers, func(tx *store.Tx, i int, now time.Time) {
		name := Seeded(i)
		tx.PutVersion(versionOf(name, SeededVersion, now))
		tx.PutRoute(routing.Route{
			Spec: name, Generation: 1, Kind: routing.KindDeploy, At: now, By: "seed",
			Splits: []routing.Split{{Version: SeededVersion, BasisPoints: routing.Full}},
		})
		if i < served {
			tx.PutInstance(instanceOf(name, SeededVersion, address, now))
		}
	})
}

// Pair is the spec that SeedPair writes, and PairVersions are its versions: the first has almost all the weight and the other one the rest.
const Pair = "measured"

// PairVersions are those of Pair.
var PairVersions = [2]string{"1.0.0", "2.0.0"}

// SeedPair writes one spec of two versions, each with weight and an instance at an address, and an instance of each of the named specs that
// are still to be published: their hosts come into being when they are.
func SeedPair(ctx context.Context, dataDir string, addresses [2]string, unborn []string) error {
	return write(ctx, dataDir, append([]string{Pair}, unborn...), func(tx *store.Tx, name string, now time.Time) {
		if name != Pair {
			tx.PutInstance(instanceOf(name, SeededVersion, addresses[0], now))
			return
		}
		for i, v := range PairVersions {
			tx.PutVersion(versionOf(name, v, now))
			tx.PutInstance(instanceOf(name, v, addresses[i], now))
		}
		tx.PutRoute(routing.Route{
			Spec: name, Generation: 1, Kind: routing.KindWeights, At: now, By: "seed",
			Splits: []routing.Split{{Version: PairVersions[0], BasisPoints: routing.Full - 1}, {Version: PairVersions[1], BasisPoints: 1}},
		})
	})
}

func versionOf(name, version string, now time.Time) versions.Record {
	return versions.Record{
		Spec: name, Version: version, Digest: "sha256:seeded", PublishedAt: now, PublishedBy: "seed",
		Manifest: versions.Manifest{Name: name, Version: version}, Standing: versions.Candidate, FirstWeight: 1, HeldAll: true, FullSince: now,
	}
}

func instanceOf(name, version, address string, now time.Time) routing.Instance {
	return routing.Instance{
		ID: name + "-" + version, Spec: name, Version: version, Digest: "sha256:seeded", Address: address, Health: routing.Ready, RegisteredAt: now,
	}
}

// write puts records of each of the items into a new store, many at a time.
func write[T any](ctx context.Context, dataDir string, items []T, put func(tx *store.Tx, item T, now time.Time)) (err error) {
	s, err := store.Open(ctx, store.Options{DataDir: dataDir, Log: zap.NewNop()})
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	now := time.Now().UTC()
	for chunk := range slices.Chunk(items, seedBatch) {
		_, err := s.Update(ctx, func(tx *store.Tx) error {
			for _, item := range chunk {
				put(tx, item, now)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("seed: %w", err)
		}
	}
	return nil
}
