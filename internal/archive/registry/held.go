package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/errdef"

	"github.com/specproxy/specproxy/internal/archive"
)

// readers is how many image manifests are asked for at once.
const readers = 8

// Held lists the versions that tags of the repository keep, sorted by digest. It needs nothing but the registry: also what another tool
// copied into it is found.
func (a *Archive) Held(ctx context.Context) ([]archive.Held, error) {
	kept, named, err := a.tags(ctx)
	if err != nil {
		return nil, fmt.Errorf("archive %s: listing its tags: %w", a.name, a.reason(err))
	}
	var mu sync.Mutex
	tagged := map[string]string{} // digest by the version's own tag
	err = a.each(ctx, named, func(ctx context.Context, tag string) error {
		desc, err := a.repo.Manifests().Resolve(ctx, tag)
		if errors.Is(err, errdef.ErrNotFound) {
			return nil // It left since.
		}
		if err != nil {
			return a.reason(err)
		}
		mu.Lock()
		defer mu.Unlock()
		tagged[tag] = desc.Digest.String()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", a.name, err)
	}
	for _, digest := range tagged {
		kept = append(kept, digest)
	}
	slices.Sort(kept)
	kept = slices.Compact(kept)
	all := make([]archive.Held, 0, len(kept))
	err = a.each(ctx, kept, func(ctx context.Context, digest string) error {
		h := archive.Held{Digest: digest}
		image, err := a.image(ctx, digest)
		var away *archive.Unreachable
		if errors.As(err, &away) {
			return err
		}
		if h.Err = err; err == nil {
			h.Ref, h.Err = archive.ImageRef(digest, image)
		}
		h.Tagged = h.Err == nil && tagged[archive.Tag(h.Ref)] == digest
		mu.Lock()
		defer mu.Unlock()
		all = append(all, h)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", a.name, err)
	}
	slices.SortFunc(all, func(x, y archive.Held) int { return strings.Compare(x.Digest, y.Digest) })
	return all, nil
}

// tags lists the digests that keep tags name, and the tags that look like a version's own. Others belong to other tools: signatures, and
// the lists of referrers of registries that have no API for them.
func (a *Archive) tags(ctx context.Context) (kept, named []string, err error) {
	err = a.repo.Tags(ctx, "", func(tags []string) error {
		for _, tag := range tags {
			hex, keep := strings.CutPrefix(tag, keepPrefix)
			switch {
			case keep && len(hex) == 64 && !strings.Contains(hex, "."):
				kept = append(kept, sha256Prefix+hex)
			case strings.Contains(tag, ".") && !strings.HasPrefix(tag, "sha256-"):
				named = append(named, tag)
			}
		}
		return nil
	})
	if errors.Is(err, errdef.ErrNotFound) || unknownRepository(err) {
		return nil, nil, nil // Nothing was ever written.
	}
	return kept, named, err
}

// each calls fn for every item, a few at a time, until one fails.
func (a *Archive) each(ctx context.Context, items []string, fn func(context.Context, string) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, item := range items {
		g.Go(func() error { return fn(ctx, item) })
	}
	return g.Wait()
}
