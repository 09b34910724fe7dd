package sidecar

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/signing"
)

// Signatures that are demanded and not there yet are asked for again, first soon, then seldom.
const (
	firstLook = 500 * time.Millisecond
	lastLook  = 30 * time.Second
)

// trust holds which keys the newest State demands, and why none of them signed the version as far as the sidecar knows. What --require-key names
// is another matter: without that no agent is started at all.
type trust struct {
	wake chan struct{} // one token: something is missing

	mu       sync.Mutex
	demanded []string // PEM
	why      string
}

// reason is why the instance must not be ready; empty if nothing is demanded, or what is demanded is there.
func (t *trust) reason() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.why
}

// demand takes over what a State demands. It comes before the State is acknowledged, so that no instance counts as ready under a demand that it
// has not looked at. It reads the local copy only.
func (s *sidecar) demand(keys []string) {
	t := &s.trust
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.Equal(keys, t.demanded) {
		return
	}
	t.demanded, t.why = slices.Clone(keys), ""
	if len(keys) == 0 {
		return
	}
	err := s.signedBy(keys, func(k []signing.PublicKey) error { return s.source.SignedHere(context.Background(), s.version, k) })
	if err == nil {
		return
	}
	t.why = err.Error()
	select {
	case t.wake <- struct{}{}:
	default: // it is awake
	}
}

// signedBy parses the demanded keys and asks check about them.
func (s *sidecar) signedBy(keys []string, check func([]signing.PublicKey) error) error {
	parsed, err := signing.ParsePublicKeys(keys)
	if err != nil {
		return fmt.Errorf("the keys that the control plane demands cannot be used: %w", err)
	}
	if err := check(parsed); err != nil {
		return fmt.Errorf("the policy of %s demands a signature: %w", s.Ref.Spec, err)
	}
	return nil
}

// lookForSignatures asks the replicas for a signature that is demanded and not here, until it is, or is no longer demanded.
func (s *sidecar) lookForSignatures(ctx context.Context) {
	timer := time.NewTimer(lastLook)
	defer timer.Stop()
	pause := firstLook
	for {
		select {
		case <-s.trust.wake:
			pause = firstLook
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		s.trust.mu.Lock()
		demanded, missing := s.trust.demanded, s.trust.why != ""
		s.trust.mu.Unlock()
		if !missing {
			timer.Reset(lastLook)
			continue
		}
		err := s.signedBy(demanded, func(k []signing.PublicKey) error { return s.source.Signed(ctx, s.version, k) })
		s.looked(demanded, err)
		timer.Reset(pause)
		pause = min(2*pause, lastLook)
	}
}

// looked notes what looking came to, unless something else is demanded by now.
func (s *sidecar) looked(demanded []string, err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	s.trust.mu.Lock()
	changed := slices.Equal(demanded, s.trust.demanded) && s.trust.why != why
	if changed {
		s.trust.why = why
	}
	s.trust.mu.Unlock()
	if changed {
		first, _, _ := strings.Cut(why, "\n")
		s.Log.Info("looked for the signature that the policy demands", zap.Bool("there", err == nil), zap.String("why_not", first))
		s.group.StatusChanged()
	}
}
