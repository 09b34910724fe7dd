package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// bigSpec is the spec with many versions.
const bigSpec = "a-big-one"

// batch is how many versions one transaction of the seed writes.
const batch = 500

// versionOf numbers versions so that a tenth of them begins with each of ten first numbers.
func versionOf(n int) string { return fmt.Sprintf("%d.%d.0", n/1000, n%1000) }

// current is the version of the spec with many that holds its traffic: those before it did so earlier, those after it never have.
func current(size int) int { return size / 2 }

// seed writes the records of a control plane that has been in use: size specs of one version that hold their traffic, and one spec of size
// versions, half of which have been deployed one after the other. Publishing them one by one would write the same and take the better part of an hour.
func seed(ctx context.Context, dataDir string, size int) (_ []string, err error) {
	s, err := store.Open(ctx, store.Options{DataDir: dataDir, Log: zap.NewNop()})
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var records []versions.Record
	var all []string
	for n := range size {
		all = append(all, versionOf(n))
		big, err := record(bigSpec, versionOf(n))
		if err != nil {
			return nil, err
		}
		switch {
		case n < current(size):
			big.Standing, big.FirstWeight, big.HeldAll = versions.Good, uint64(n+1), true
		case n == current(size):
			big = routed(big, uint64(n+1))
		}
		small, err := record(fmt.Sprintf("spec-%05d", n), "1.0.0")
		if err != nil {
			return nil, err
		}
		records = append(records, big, routed(small, 1))
	}
	for chunk := range slices.Chunk(records, batch) {
		_, err := s.Update(ctx, func(tx *store.Tx) error {
			for _, r := range chunk {
				tx.PutVersion(r)
				if !r.FullSince.IsZero() {
					tx.PutRoute(routing.Route{
						Spec: r.Spec, Generation: r.FirstWeight, Kind: routing.KindDeploy, At: r.FullSince, By: "seed",
						Splits: []routing.Split{{Version: r.Version, BasisPoints: routing.Full}},
					})
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("seed: %w", err)
		}
	}
	return all, nil
}

// record is one as publishing writes it.
func record(spec, version string) (versions.Record, error) {
	packed, err := versions.Pack(folder(spec, version))
	if err != nil {
		return versions.Record{}, fmt.Errorf("seed: %w", err)
	}
	return versions.Record{
		Spec: spec, Version: version, Digest: packed.Digest, PublishedAt: time.Now().UTC(), PublishedBy: "seed", Manifest: packed.Manifest, Standing: versions.Published,
	}, nil
}

func folder(spec, version string) map[string][]byte {
	return map[string][]byte{
		"spec.yaml": fmt.Appendf(nil, "name: %s\nversion: %s\ndescription: one of many\ndocuments: [prompt.md]\n%s", spec, version, versions.SmallestInFlight),
		"prompt.md": fmt.Appendf(nil, "Be %s of %s.\n", version, spec),
	}
}

func routed(r versions.Record, generation uint64) versions.Record {
	r.Standing, r.FirstWeight, r.HeldAll, r.FullSince = versions.Candidate, generation, true, time.Now().UTC()
	return r
}

// publish stores one more version of the spec through the API.
func publish(ctx context.Context, p *plane, version string) error {
	request := &operatorv1.PublishRequest{}
	for path, content := range folder(bigSpec, version) {
		request.Files = append(request.Files, &operatorv1.File{Path: path, Content: content})
	}
	if _, err := p.API.Publish(ctx, connect.NewRequest(request)); err != nil {
		return fmt.Errorf("publish %s: %w", version, err)
	}
	return nil
}
