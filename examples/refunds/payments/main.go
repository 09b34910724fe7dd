// Command payments is the outside world of the worked example: it pays whatever it is told to, every time it is told.
//
// Invariants: every call is appended to the ledger before it is answered, none is de-duplicated, and a closed account is never paid.
// So whoever pays a refund twice is found in the ledger.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	ledger := flag.String("ledger", "", "file to which every call is appended, one JSON object a line")
	seed := flag.Uint64("seed", 1, "seed of the time each payment takes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, *listen, *ledger, *seed)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "payments:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. It prints {"listen":"host:port"} once it listens.
func run(ctx context.Context, listen, ledger string, seed uint64) error {
	if ledger == "" {
		return errors.New("no ledger: name one with --ledger FILE")
	}
	log, err := refund.OpenLog(ledger)
	if err != nil {
		return err
	}
	defer log.Close()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: newDesk(log, seed), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"listen": listener.Addr().String()}); err != nil {
		return err
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	err = server.Shutdown(bounded)
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}
