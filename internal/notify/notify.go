// Package notify tells receivers outside of what happens to post-mortems: signed CloudEvents, or what a template makes of them.
//
// Invariants: what is to be told is read from the chain of events and never written by a command, so no receiver can hold up a rollback; how far a
// receiver was told is kept in the store and moves on only after it answered 2xx, so each message arrives at least once, in order, under the same id
// however often it is sent; one receiver's failure is no other's; only the leader sends.
package notify

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/specproxy/specproxy/internal/store"
)

// Options of a Sender. Store, Config and Log are required.
type Options struct {
	Store  *store.Store
	Config *Config
	Log    *zap.Logger
	// Metrics is where counts are shown; nil: nowhere.
	Metrics prometheus.Registerer
	// First is the pause after the first failure, which doubles with each further one up to Most. Defaults: 1 s, 5 min.
	First, Most time.Duration
	// Timeout of one attempt. Default 10 s.
	Timeout time.Duration
	// Look is how often it is looked whether something is overdue. Default 30 s.
	Look time.Duration
	// GiveUp is how long a leader tries to deliver a message before it drops it, so that newer ones arrive. Default 72 h.
	GiveUp time.Duration
}

// Sender tells all receivers of one configuration.
type Sender struct {
	o        Options
	client   *http.Client
	attempts *prometheus.CounterVec
}

// New makes a Sender.
func New(o Options) *Sender {
	or := func(d *time.Duration, standard time.Duration) {
		if *d == 0 {
			*d = standard
		}
	}
	or(&o.First, time.Second)
	or(&o.Most, 5*time.Minute)
	or(&o.Timeout, 10*time.Second)
	or(&o.Look, 30*time.Second)
	or(&o.GiveUp, 72*time.Hour)
	s := &Sender{o: o, client: newClient(o.Timeout), attempts: promauto.With(o.Metrics).NewCounterVec(prometheus.CounterOpts{
		Name: "specproxy_webhook_attempts_total", Help: "Attempts of this replica to deliver a message, by receiver and result: delivered, failed (it is tried again), dropped.",
	}, []string{"webhook", "result"})}
	if o.Metrics != nil {
		o.Metrics.MustRegister(behind{o.Store, o.Config})
	}
	return s
}

// Run sends until ctx ends. It may run on one replica at a time; where two do for a moment, a message may arrive twice, under one id.
func (s *Sender) Run(ctx context.Context) error {
	defer s.client.CloseIdleConnections()
	g, ctx := errgroup.WithContext(ctx)
	for _, r := range s.o.Config.Receivers {
		g.Go(func() error { return s.tell(ctx, r) })
	}
	g.Go(func() error { <-ctx.Done(); return ctx.Err() })
	return g.Wait()
}

// tell tells one receiver, one message after the other, until ctx ends. Whatever fails is said and tried again: no receiver and no file ends a leader.
func (s *Sender) tell(ctx context.Context, r Receiver) error {
	log := s.o.Log.With(zap.String("webhook", r.Name))
	var t tries
	for ctx.Err() == nil {
		if err := s.step(ctx, r, &t, log); err != nil && ctx.Err() == nil {
			log.Error("webhooks wait for the store", zap.Error(err))
			sleep(ctx, s.o.First)
		}
	}
	return ctx.Err()
}

// tries are the attempts to deliver one message that have failed in a row.
type tries struct {
	n     int
	since time.Time
}

// step delivers one message, or fails to, or waits until there is one.
func (s *Sender) step(ctx context.Context, r Receiver, t *tries, log *zap.Logger) error {
	at, err := s.begin(ctx, r.Name)
	if err != nil {
		return err
	}
	view, now := s.o.Store.View(), time.Now().UTC()
	message, after, err := next(view, s.o.Config.Source, r, at, now)
	if err != nil {
		return err
	}
	if message == nil {
		if err := s.save(ctx, at, after); err != nil {
			return err
		}
		s.wait(ctx, view)
		return nil
	}
	got, pause := s.attempt(ctx, r, *message, t.n)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if t.n == 0 {
		t.since = now
	}
	log = log.With(zap.String("message", message.ID))
	if got.err != nil && !got.refused && now.Sub(t.since) < s.o.GiveUp {
		t.n++
		s.attempts.WithLabelValues(r.Name, "failed").Inc()
		log.Warn("not delivered; it will be tried again", zap.Duration("in", pause), zap.Error(got.err))
		sleep(ctx, pause)
		return nil
	}
	word := "delivered"
	if got.err != nil {
		word = "dropped"
		log.Error("dropped: it will not be tried again", zap.Error(got.err))
	}
	*t = tries{}
	s.attempts.WithLabelValues(r.Name, word).Inc()
	return s.save(ctx, at, after)
}

// begin says how far the receiver has been told. One that is new is told of what happens from now on.
func (s *Sender) begin(ctx context.Context, name string) (store.Webhook, error) {
	if at, ok := s.o.Store.View().Webhook(name); ok {
		return at, nil
	}
	var at store.Webhook
	_, err := s.o.Store.Update(ctx, func(tx *store.Tx) error {
		var ok bool
		if at, ok = tx.Webhook(name); !ok {
			at = store.Webhook{Name: name, Seq: tx.ChainHead().Seq}
			tx.PutWebhook(at)
		}
		return nil
	})
	return at, err
}

// save notes what was told, unless another leader has told more meanwhile.
func (s *Sender) save(ctx context.Context, before, after store.Webhook) error {
	if equal(before, after) {
		return nil
	}
	_, err := s.o.Store.Update(ctx, func(tx *store.Tx) error {
		if now, _ := tx.Webhook(before.Name); !equal(now, before) {
			return nil
		}
		tx.PutWebhook(after)
		return nil
	})
	return err
}

func equal(a, b store.Webhook) bool {
	return a.Name == b.Name && a.Seq == b.Seq && a.Parts == b.Parts && a.Head == b.Head && a.HeadAt.Equal(b.HeadAt) && slices.Equal(a.Overdue, b.Overdue)
}

// wait until the chain has grown, or it is time to look whether something has become overdue.
func (s *Sender) wait(ctx context.Context, seen *store.View) {
	ctx, cancel := context.WithTimeout(ctx, s.o.Look)
	defer cancel()
	for rev := seen.Revision(); ; {
		var err error
		if rev, err = s.o.Store.Wait(ctx, rev); errors.Is(err, store.ErrClosed) {
			<-ctx.Done()
		}
		if err != nil || s.o.Store.View().ChainHead() != seen.ChainHead() {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// behind shows, at every replica alike, how many events each receiver has not been told of.
type behind struct {
	store  *store.Store
	config *Config
}

var descBehind = prometheus.NewDesc("specproxy_webhook_behind_events", "Events of the post-mortems' chain that a receiver has not been told of.", []string{"webhook"}, nil)

// Describe implements prometheus.Collector.
func (behind) Describe(out chan<- *prometheus.Desc) { out <- descBehind }

// Collect implements prometheus.Collector.
func (b behind) Collect(out chan<- prometheus.Metric) {
	view := b.store.View()
	head := view.ChainHead().Seq
	for _, r := range b.config.Receivers {
		if at, ok := view.Webhook(r.Name); ok {
			out <- prometheus.MustNewConstMetric(descBehind, prometheus.GaugeValue, float64(head-min(head, at.Seq)), r.Name)
		}
	}
}
