package store

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// ErrClosed is returned by calls on a store that was closed.
var ErrClosed = errors.New("the store is closed")

// keptChanges bounds the change log, in revisions. Who falls further behind rebuilds everything.
const keptChanges = 8192

// change says which specs one revision touched.
type change struct {
	rev   int64
	specs []string
}

// feed is the newest view and the log of what led to it.
type feed struct {
	mu   sync.Mutex
	view *View
	// log is in revision order and complete for all revisions after floor.
	log   []change
	floor int64
	// moved is closed when the view is replaced.
	moved chan struct{}
}

// advance publishes the view of the next revision.
func (f *feed) advance(v *View, specs []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.log) == keptChanges {
		half := keptChanges / 2
		f.floor = f.log[half-1].rev
		f.log = slices.Clone(f.log[half:])
	}
	f.log = append(f.log, change{rev: v.rev, specs: specs})
	f.publish(v)
}

// reset publishes a view that was read anew: what changed on the way to it is not known.
func (f *feed) reset(v *View) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log, f.floor = nil, v.rev
	f.publish(v)
}

func (f *feed) publish(v *View) {
	f.view = v
	if f.moved != nil {
		close(f.moved)
	}
	f.moved = make(chan struct{})
}

func (f *feed) current() (*View, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view, f.moved
}

// View returns the newest view.
func (s *Store) View() *View {
	v, _ := s.feed.current()
	return v
}

// Wait returns the newest view's revision once it is greater than after; else ctx's error or ErrClosed.
func (s *Store) Wait(ctx context.Context, after int64) (int64, error) {
	for {
		v, moved := s.feed.current()
		if v.rev > after {
			return v.rev, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return v.rev, context.Cause(ctx)
		case <-s.closing:
			return v.rev, ErrClosed
		}
	}
}

// Changed returns the specs that records written after the revision concern, sorted, and the revision up to which that holds; View shows
// that one or a newer one. complete is false if the revision is too old to tell: then everything may have changed.
func (s *Store) Changed(after int64) (specs []string, rev int64, complete bool) {
	f := &s.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if after < f.floor {
		return nil, f.view.rev, false
	}
	at, found := slices.BinarySearchFunc(f.log, after, func(c change, rev int64) int { return int(c.rev - rev) })
	if found {
		at++
	}
	for _, c := range f.log[at:] {
		specs = append(specs, c.specs...)
	}
	slices.Sort(specs)
	return slices.Compact(specs), f.view.rev, true
}
