package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// TestChaosLosesOnlyWhatRanOnKilledProcesses is the short run; make chaos is the long one.
func TestChaosLosesOnlyWhatRanOnKilledProcesses(t *testing.T) {
	chaos(t, 1, 150)
}

// slots are two instances of each of two versions.
var chaosVersions = []string{"1.0.0", "1.0.0", "1.1.0", "1.1.0"}

// slot is one instance, which is started again at its address whenever it was killed.
type slot struct {
	number          int
	version, listen string
	process         *process
}

// kill is one process that was killed, and when.
type kill struct {
	slot     int
	what     string
	at, gone time.Time
}

// exchange is one request as its client saw it.
type exchange struct {
	id          string
	began, done time.Time
	answered    bool   // whole, or by the retry signal
	what        string // else: what the client got
}

// storm is one run.
type storm struct {
	*world
	dir    string // of the agents' logs: a line for every request that one began or ended
	seed   uint64
	random *rand.Rand
	slots  []*slot
	kills  []kill
	target string // Envoy

	wg        sync.WaitGroup
	mu        sync.Mutex
	exchanges []exchange
}

// chaos flips a spec n times under load and kills agents and sidecars at random moments. Every request must be answered, or have been in
// flight on a killed process, end in an error at once, and be named by the control plane as failed; none runs twice. What is done follows from
// the seed; when it happens does not.
func chaos(t *testing.T, seed uint64, n int) {
	s := &storm{world: startPlane(t, nil), dir: t.TempDir(), seed: seed, random: rand.New(rand.NewPCG(seed, 0))}
	t.Logf("seed %d, %d flips", seed, n)
	s.publish("shop", "1.0.0", completeContract)
	s.publish("shop", "1.1.0", completeContract)
	for i, version := range chaosVersions {
		s.slots = append(s.slots, &slot{number: i, version: version, listen: freeAddress(t)})
		s.begin(s.slots[i])
	}
	s.ready("shop", "1.0.0", 2)
	s.ready("shop", "1.1.0", 2)
	s.deploy("shop", "1.0.0")
	s.target = s.envoy("edge-1").Address
	eventually(t, "first answer", func() error {
		if x := s.exchange(t.Context(), "warm-up", 0); !x.answered {
			return fmt.Errorf("%s", x.what)
		}
		return nil
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	loaded := make(chan struct{})
	go func() { defer close(loaded); s.load(ctx) }()
	next := 5 + s.random.IntN(20)
	for i := range n {
		s.flip(i)
		if !s.whole() {
			continue
		}
		// Counted from when the plane knows the last victim's successor, so that Envoy has had its endpoint for a while.
		if next--; next <= 0 {
			s.killOne()
			next = 5 + s.random.IntN(20)
		}
	}
	stop()
	<-loaded
	s.judge()
}

// begin starts an instance; its agent is this program.
func (s *storm) begin(to *slot) {
	s.t.Helper()
	args := []string{"--control", s.grpc, "--spec", "shop:" + to.version, "--listen", to.listen, "--cache-dir", s.t.TempDir(), "--", os.Args[0], chaosAgent, s.dir, strconv.Itoa(to.number)}
	to.process = start(s.t, nil, filepath.Join(binDir, "specproxy"), args...)
}

// flip moves weight, or, now and then, deploys and rolls back. While an instance is being replaced, a command may have to wait for it.
func (s *storm) flip(i int) {
	s.t.Helper()
	if i%50 == 49 {
		s.deploy("shop", "1.1.0")
		change := s.rollback("shop")
		s.closePostMortem(change.GetPostmortem(), "false-alarm")
		return
	}
	share := 1 + s.random.Uint32N(9999)
	_, err := s.client.SetWeights(s.t.Context(), connect.NewRequest(&operatorv1.SetWeightsRequest{Spec: "shop", Weights: []*operatorv1.Weight{
		{Version: "1.0.0", BasisPoints: share}, {Version: "1.1.0", BasisPoints: 10_000 - share},
	}}))
	if err != nil {
		s.t.Fatalf("flip %d: %v", i, err)
	}
}

// whole says whether every instance is ready: no pool is ever emptied.
func (s *storm) whole() bool {
	var ready, silent uint32
	for _, v := range s.spec("shop").GetVersions() {
		ready += v.GetPool().GetReady()
		silent += v.GetPool().GetSilent() // a killed one stays in its pool until another registers at its address
	}
	return int(ready) == len(s.slots) && silent == 0
}

// killOne kills an agent or a sidecar, waits until both are gone, and starts the instance again.
func (s *storm) killOne() {
	s.t.Helper()
	victim := s.slots[s.random.IntN(len(s.slots))]
	k := kill{slot: victim.number, what: "sidecar", at: time.Now()}
	if s.random.IntN(2) == 0 {
		k.what = "agent"
		pid, err := os.ReadFile(filepath.Join(s.dir, fmt.Sprintf("%d.pid", victim.number)))
		if err != nil {
			s.t.Fatal(err)
		}
		n, err := strconv.Atoi(string(pid))
		if err != nil {
			s.t.Fatal(err)
		}
		if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
			s.t.Fatalf("kill the agent of slot %d: %v", victim.number, err)
		}
		<-victim.process.done // it ends by itself, with its agent
	} else {
		victim.process.kill()
	}
	k.gone = time.Now()
	s.kills = append(s.kills, k)
	s.begin(victim)
}

// load sends a request every few milliseconds until ctx ends, and waits for the answers.
func (s *storm) load(ctx context.Context) {
	random := rand.New(rand.NewPCG(s.seed, 1))
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			work := time.Duration(random.IntN(40)) * time.Millisecond
			if random.IntN(50) == 0 {
				work = long
			}
			s.wg.Go(func() {
				x := s.exchange(context.WithoutCancel(ctx), fmt.Sprintf("x-%d", i), work)
				s.mu.Lock()
				defer s.mu.Unlock()
				s.exchanges = append(s.exchanges, x)
			})
		case <-ctx.Done():
			s.wg.Wait()
			return
		}
	}
}

// exchange sends one request, once.
func (s *storm) exchange(ctx context.Context, id string, work time.Duration) (x exchange) {
	x = exchange{id: id, began: time.Now()}
	defer func() { x.done = time.Now() }()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.target+"/work?for="+work.String(), strings.NewReader(id))
	if err != nil {
		x.what = err.Error()
		return x
	}
	req.Host = "shop.agents"
	req.Header.Set("Idempotency-Key", id)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		x.what = err.Error()
		return x
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	x.what = fmt.Sprintf("%s %q %v", res.Status, body, err)
	x.answered = err == nil && (res.StatusCode == http.StatusOK && string(body) == id || res.Header.Get("X-Spec-Rollback") != "")
	return x
}

// judge holds what clients saw against what agents did, what was killed, and what the control plane names.
func (s *storm) judge() {
	began := s.logs()
	lost, due := 0, map[string]bool{}
	for _, x := range s.exchanges {
		if len(began[x.id]) > 1 {
			s.t.Errorf("%s ran %d times", x.id, len(began[x.id]))
		}
		if x.answered {
			continue
		}
		lost++
		if s.owed(x, began[x.id]) {
			due[x.id] = true
		}
		if !s.excused(x, began[x.id]) {
			s.t.Errorf("%s was lost, and nothing that it ran on was killed: from %s to %s, on slot %v, client got %s",
				x.id, x.began.Format(time.StampMicro), x.done.Format(time.StampMicro), began[x.id], x.what)
		}
	}
	named := s.named(due)
	for _, x := range s.exchanges {
		if x.answered && named[x.id] && !s.untold(x, began[x.id]) {
			s.t.Errorf("%s is named as failed, and was answered on slot %v", x.id, began[x.id])
		}
	}
	s.t.Logf("%d requests, %d kills, %d requests in flight on what was killed, of which the control plane must name %d and names %d failed ones in all",
		len(s.exchanges), len(s.kills), lost, len(due), len(named))
	if s.t.Failed() {
		for _, k := range s.kills {
			s.t.Logf("killed the %s of slot %d between %s and %s", k.what, k.slot, k.at.Format(time.StampMicro), k.gone.Format(time.StampMicro))
		}
	}
	if len(s.exchanges) < 100 || len(s.kills) == 0 || len(due) == 0 {
		s.t.Errorf("%d requests, %d kills and %d names that must be known prove nothing", len(s.exchanges), len(s.kills), len(due))
	}
}

const (
	// long is the work of some requests, so that a killed process has some that the control plane was told of.
	long = 3 * time.Second
	// told is how long a sidecar may take to tell of an execution. A killed one takes with it what it has not told.
	told = 2 * time.Second
)

// owed says whether the control plane must name the request, which was not answered: an agent had begun it, and its sidecar either lived to tell
// that it failed, or was killed long enough after it.
func (s *storm) owed(x exchange, slots []int) bool {
	for _, k := range s.kills {
		if len(slots) > 0 && slots[0] == k.slot && !x.done.Before(k.at) && x.began.Before(k.at) {
			return k.what == "agent" || k.at.Sub(x.began) > told
		}
	}
	return false
}

// untold says whether the answer came so shortly before a kill of its sidecar that the control plane may still have taken it for running.
func (s *storm) untold(x exchange, slots []int) bool {
	for _, k := range s.kills {
		if k.what == "sidecar" && len(slots) > 0 && slots[0] == k.slot && x.began.Before(k.gone) && k.at.Sub(x.done) < told {
			return true
		}
	}
	return false
}

// named waits until the control plane names as failed all that is due, and returns everything that it names so, by the client's own key.
func (s *storm) named(due map[string]bool) map[string]bool {
	s.t.Helper()
	var named map[string]bool
	eventually(s.t, "names of what was lost", func() error {
		res, err := s.client.ListExecutions(s.t.Context(), connect.NewRequest(&operatorv1.ListExecutionsRequest{Spec: "shop", Failed: true}))
		if err != nil {
			return err
		}
		if n := res.Msg.GetOmitted(); n > 0 {
			s.t.Fatalf("%d names are not kept: fewer flips would do", n)
		}
		named = map[string]bool{}
		for _, x := range res.Msg.GetExecutions() {
			named[x.GetKey()] = true
		}
		var missing []string
		for id := range due {
			if !named[id] {
				missing = append(missing, id)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("%d of %d are missing, such as %s", len(missing), len(due), missing[0])
		}
		return nil
	})
	return named
}

// noticed is how long Envoy may take to see that a connection has ended.
const noticed = 3 * time.Second

// excused says whether the request was on a process while that was killed, and its client was told so at once: by the sidecar of a killed agent,
// or by Envoy of a connection that ended. One that no agent began had got as far as the killed agent's sidecar, or the killed sidecar.
func (s *storm) excused(x exchange, slots []int) bool {
	said := strings.Contains(x.what, "did not answer") || strings.Contains(x.what, "upstream connect error or disconnect/reset")
	for _, k := range s.kills {
		overlaps := !x.done.Before(k.at) && !x.began.After(k.gone.Add(noticed))
		if said && overlaps && (len(slots) == 0 || slots[0] == k.slot) {
			return true
		}
	}
	return false
}

// logs returns on which slots each request began.
func (s *storm) logs() map[string][]int {
	began := map[string][]int{}
	for _, to := range s.slots {
		log, err := os.Open(filepath.Join(s.dir, fmt.Sprintf("%d.log", to.number)))
		if err != nil {
			s.t.Fatal(err)
		}
		for scan := bufio.NewScanner(log); scan.Scan(); {
			began[scan.Text()] = append(began[scan.Text()], to.number)
		}
		log.Close()
	}
	return began
}

// chaosAgent is the first argument with which this program is an agent.
const chaosAgent = "play-chaos-agent"

// playChaosAgent writes down what it begins before it works.
func playChaosAgent(dir, number string) error {
	log, err := os.OpenFile(filepath.Join(dir, number+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, number+".pid"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	http.HandleFunc("/work", func(w http.ResponseWriter, r *http.Request) {
		id, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if _, err := log.WriteString(string(id) + "\n"); err != nil {
			panic(http.ErrAbortHandler)
		}
		work, _ := time.ParseDuration(r.FormValue("for"))
		select {
		case <-time.After(work):
			_, _ = w.Write(id)
		case <-r.Context().Done():
		}
	})
	return http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil) //nolint:gosec // a test
}
