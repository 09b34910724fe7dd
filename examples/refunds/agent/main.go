// Command agent is the customer-service agent of the worked example. It pays refunds by the limits it finds in its spec.
//
// Invariants: the limits come from the folder $SPEC_DIR and from nowhere else; nothing is paid before the guard granted it; a granted
// payment is asked for exactly once and waited for; whatever is cut before that stops without a trace in the world.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// options are all that the agent is told.
type options struct {
	port, specDir, guardURL string
	paymentsURL             string
	journalDir              string
	seed                    uint64
	parkFor                 time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.paymentsURL, "payments", "", "URL of the payment process")
	flag.StringVar(&o.journalDir, "journal-dir", ".", "folder in which this process writes its journal")
	flag.Uint64Var(&o.seed, "seed", 1, "seed of the time each refund is thought about")
	flag.DurationVar(&o.parkFor, "park-for", 10*time.Minute, "how long a refund waits for a supervisor")
	flag.Parse()
	o.port, o.specDir, o.guardURL = os.Getenv("PORT"), os.Getenv("SPEC_DIR"), os.Getenv("SPECPROXY_URL")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

func (o options) validate() error {
	switch {
	case o.paymentsURL == "":
		return errors.New("no payment process: name one with --payments URL")
	case o.port == "" || o.specDir == "" || o.guardURL == "":
		return errors.New("PORT, SPEC_DIR and SPECPROXY_URL must be set: start the agent with `specproxy … -- agent`")
	}
	if _, err := strconv.ParseUint(o.port, 10, 16); err != nil {
		return fmt.Errorf("PORT %q is not a port number", o.port)
	}
	return nil
}

// run serves until ctx ends, then lets what it granted itself come to its end.
func run(ctx context.Context, o options) error {
	if err := o.validate(); err != nil {
		return err
	}
	limits, err := readLimits(filepath.Join(o.specDir, limitsFile))
	if err != nil {
		return err
	}
	log, err := zap.NewProduction()
	if err != nil {
		return err
	}
	instance := fmt.Sprintf("agent-%d", os.Getpid())
	journal, err := refund.OpenLog(filepath.Join(o.journalDir, instance+".jsonl"))
	if err != nil {
		return err
	}
	defer journal.Close()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", o.port))
	if err != nil {
		return err
	}
	stopping, stop := context.WithCancel(context.Background())
	defer stop()
	agent := &Agent{
		Limits:   limits,
		World:    newWorld(o.guardURL, o.paymentsURL),
		Journal:  journal,
		Instance: instance,
		Seed:     o.seed,
		ParkFor:  o.parkFor,
		Stopping: stopping.Done(),
		Log:      log,
	}
	server := &http.Server{Handler: agent.Handler(), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Fprintf(os.Stdout, "%s pays %s, listening on %s\n", instance, limits, listener.Addr())
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop()
	bounded, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	err = server.Shutdown(bounded)
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}
