package store_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/specproxy/specproxy/internal/drain"
	"github.com/specproxy/specproxy/internal/postmortem"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// crashDir makes this test binary write generations into the store of that directory, for ever.
const crashDir = "STORE_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeGenerations(dir, os.Stdout))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeGenerations writes one generation after the other, four records in each, and prints the number of each one that was committed.
func writeGenerations(dir string, reports io.Writer) error {
	ctx := context.Background()
	s, err := store.Open(ctx, store.Options{DataDir: dir})
	if err != nil {
		return err
	}
	for {
		var generation uint64
		_, err := s.Update(ctx, func(tx *store.Tx) error {
			r, _ := tx.Route("a")
			generation = r.Generation + 1
			tx.PutRoute(route("a", generation, "1.0.0"))
			tx.PutVersion(versions.Record{Spec: "a", Version: "1.0.0", FirstWeight: generation})
			tx.PutDrain(drain.Drain{Spec: "a", Version: "1.0.0", Generation: generation})
			tx.AppendPostMortem(tx.NextPostMortemID(), time.Now(), "ada", postmortem.Opened{Specs: []string{"a"}})
			return nil
		})
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(reports, generation); err != nil {
			return err
		}
	}
}

// TestCrashLeavesWholeTransactions kills the writer at random moments: what it reported is there, and no generation is there in part.
func TestCrashLeavesWholeTransactions(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	for range 10 {
		reported := killAfter(t, dir, 1+random.IntN(60))
		s, err := store.Open(t.Context(), store.Options{DataDir: dir})
		if err != nil {
			t.Fatalf("open after a kill: %v", err)
		}
		checkGenerations(t, s.View(), reported)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
}

// killAfter runs the writer until it has reported n generations, kills it, and returns the last generation it reported.
func killAfter(t *testing.T, dir string, n int) uint64 {
	t.Helper()
	writer := exec.CommandContext(t.Context(), os.Args[0])
	writer.Env = append(os.Environ(), crashDir+"="+dir)
	var stderr bytes.Buffer
	writer.Stderr = &stderr
	out, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	var last string
	lines := bufio.NewScanner(out)
	for seen := 0; lines.Scan(); seen++ {
		last = lines.Text()
		if seen == n {
			if err := writer.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := writer.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the writer ended by itself: %v\n%s", err, stderr.String())
	}
	generation, err := strconv.ParseUint(last, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return generation
}

func checkGenerations(t *testing.T, v *store.View, reported uint64) {
	t.Helper()
	r, _ := v.Route("a")
	if r.Generation != reported && r.Generation != reported+1 {
		t.Errorf("generation %d after %d was reported", r.Generation, reported)
	}
	rec, _ := v.Version("a", "1.0.0")
	d, _ := v.Drain("a", "1.0.0")
	all := v.History("a")
	if uint64(len(all)) != r.Generation || all[len(all)-1].Generation != r.Generation ||
		rec.FirstWeight != r.Generation || d.Generation != r.Generation || uint64(len(v.PostMortems())) != r.Generation {
		t.Errorf("route is at generation %d, %d in the history, version at %d, drain at %d, %d post-mortems",
			r.Generation, len(all), rec.FirstWeight, d.Generation, len(v.PostMortems()))
	}
}
