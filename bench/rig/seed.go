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
func Seed(ctx context.Context, dataDir string, specs, served int, address string) (err error) {
	s, err := store.Open(ctx, store.Options{DataDir: dataDir, Log: zap.NewNop()})
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	now := time.Now().UTC()
	numbers := make([]int, specs)
	for i := range numbers {
		numbers[i] = i
	}
	for chunk := range slices.Chunk(numbers, seedBatch) {
		_, err := s.Update(ctx, func(tx *store.Tx) error {
			for _, i := range chunk {
				name := Seeded(i)
				tx.PutVersion(versions.Record{
					Spec: name, Version: SeededVersion, Digest: "sha256:seeded", PublishedAt: now, PublishedBy: "seed",
					Manifest: versions.Manifest{Name: name, Version: SeededVersion}, Standing: versions.Candidate, FirstWeight: 1, HeldAll: true, FullSince: now,
				})
				tx.PutRoute(routing.Route{
					Spec: name, Generation: 1, Kind: routing.KindDeploy, At: now, By: "seed",
					Splits: []routing.Split{{Version: SeededVersion, BasisPoints: routing.Full}},
				})
				if i < served {
					tx.PutInstance(routing.Instance{
						ID: name, Spec: name, Version: SeededVersion, Digest: "sha256:seeded", Address: address, Health: routing.Ready, RegisteredAt: now,
					})
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("seed: %w", err)
		}
	}
	return nil
}
