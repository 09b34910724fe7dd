package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

const (
	// maxUnderWay bounds the refunds under way; at the bound the queue stops taking new ones in until one ends.
	maxUnderWay = 8192
	// maxAttempts bounds how often one refund follows retry signals.
	maxAttempts = 20
)

// queue sends refunds and brings cancelled ones back.
type queue struct {
	client *client
	rate   int
	grace  time.Duration
	seed   uint64
	log    *refund.Log
	slots  chan struct{}
	work   sync.WaitGroup
	// failed holds the first error of the log: without a whole log there is no result.
	failed chan error
}

func newQueue(o options, log *refund.Log) *queue {
	return &queue{
		client: newClient(o.envoys, o.host), rate: o.rate, grace: o.grace, seed: o.seed, log: log,
		slots: make(chan struct{}, maxUnderWay), failed: make(chan error, 1),
	}
}

// run takes in refunds until ctx ends and returns how many. It returns after the last one ended.
func (q *queue) run(ctx context.Context) (int, error) {
	// Refunds under way outlive ctx by the grace.
	working, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)
	sent, err := q.takeIn(ctx, working)
	bound := time.AfterFunc(q.grace, func() {
		giveUp(fmt.Errorf("no answer %v after the traffic had ended", q.grace))
	})
	defer bound.Stop()
	q.work.Wait()
	select {
	case logErr := <-q.failed:
		return sent, errors.Join(err, logErr)
	default:
		return sent, err
	}
}

// takeIn starts refund n at start + n/rate, so that a late tick is caught up and the rate holds.
func (q *queue) takeIn(ctx, working context.Context) (int, error) {
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; ; n++ {
		timer.Reset(time.Until(start.Add(time.Duration(n) * time.Second / time.Duration(q.rate))))
		select {
		case <-ctx.Done():
			return n, nil
		case err := <-q.failed:
			return n, err
		case <-timer.C:
		}
		select {
		case <-ctx.Done():
			return n, nil
		case q.slots <- struct{}{}:
		}
		q.work.Go(func() {
			defer func() { <-q.slots }()
			if err := q.see(working, n); err != nil {
				select {
				case q.failed <- err:
				default: // one error is enough
				}
			}
		})
	}
}

// see sees refund n through to its final answer. Its error is one of the log.
func (q *queue) see(ctx context.Context, n int) error {
	r := refund.Standard.Draw(q.seed, n)
	for number := 1; ; number++ {
		attempt := q.client.send(ctx, n+number-1, r)
		attempt.Attempt = number
		if err := q.log.Append(attempt); err != nil {
			return err
		}
		if !attempt.Signal || number == maxAttempts {
			return nil
		}
		pause := time.NewTimer(time.Duration(attempt.RetryAfterMS)*time.Millisecond - time.Since(attempt.AnsweredAt))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
	}
}

// isSignal says whether an answer is the retry signal: all three parts of it.
func isSignal(status int, header http.Header) bool {
	return status == http.StatusServiceUnavailable && strings.EqualFold(header.Get(refund.HeaderShouldRetry), "true") && header.Get(refund.HeaderRollback) != ""
}
