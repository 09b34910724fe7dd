package e2e

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/envoytest"
)

// killRounds is how often the control plane is killed, about half a second each.
const killRounds = 50

var seedFlag = flag.Uint64("seed", 0, "repeat a run of a random test; 0: a new one")

// killed is a control plane that is killed again and again while a proxy serves.
type killed struct {
	*world
	spec   string
	envoy  *envoytest.Envoy
	probe  *traffic
	flips  *flips
	random *rand.Rand
	// reach is how long after a command of a kind the kill may come; it follows what the kills meet, so that both outcomes stay likely.
	reach map[string]time.Duration

	mu      sync.Mutex
	allowed [][]string // versions that may answer, by round
}

// TestXDSKilledInAFlipIsBeforeItOrAfterIt kills the control plane at random moments of every kind of command. Traffic goes on meanwhile; what
// is true afterwards is what was true before the command, or what the command makes true, whole; and the proxy follows it.
func TestXDSKilledInAFlipIsBeforeItOrAfterIt(t *testing.T) {
	seed := *seedFlag
	for seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat with: go test ./internal/e2e -run %s -seed %d", t.Name(), seed)
	k := startKilled(t, rand.New(rand.NewPCG(seed, 0)))
	tr := newTraffic(t, k.spec+".agents", k.envoy.Address, k.flips, k.routed)
	k.round(k.truth(k.spec).Weights)
	tr.warm(t)
	end := tr.begin(50)
	defer end()
	k.flips.add()

	k.calibrate()
	outcomes := map[string][2]int{} // old and new, by kind of command
	for n := range killRounds {
		c, before := k.choose()
		done := k.killIn(n, c, before)
		o := outcomes[c.kind]
		o[done]++
		outcomes[c.kind] = o
		if t.Failed() {
			return
		}
	}
	var sum [2]int
	for _, kind := range slices.Sorted(maps.Keys(outcomes)) {
		o := outcomes[kind]
		t.Logf("%-12s killed %d times: %d before the commit, %d after it", kind, o[0]+o[1], o[0], o[1])
		sum[0] += o[0]
		sum[1] += o[1]
	}
	if sum[0] == 0 || sum[1] == 0 {
		t.Errorf("of %d kills %d came before the commit and %d after it: both must be seen", killRounds, sum[0], sum[1])
	}
	end()
	tr.report(t)
}

func startKilled(t *testing.T, random *rand.Rand) *killed {
	k := &killed{world: startXDS(t), spec: "shop", flips: newFlips(), random: random, reach: map[string]time.Duration{}}
	for _, version := range []string{older, newer} {
		agent := startAgent(t, version, k.flips)
		k.publish(k.spec, version, completeContract)
		for range 2 {
			k.sidecar(k.spec+":"+version, agent.url)
		}
		k.ready(k.spec, version, 2)
	}
	k.deploy(k.spec, older)
	k.envoy = k.world.envoy("edge-1")
	k.probe = newTraffic(t, k.spec+".agents", k.envoy.Address, k.flips, nil)
	return k
}

// routed says who may answer a request that was sent in one round and answered in another.
func (k *killed) routed(from, to int) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Concat(k.allowed[min(from, len(k.allowed)-1):min(to+1, len(k.allowed))]...)
}

// round begins a round in which any of these weights may be in force.
func (k *killed) round(weights ...map[string]uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []string
	for _, w := range weights {
		all = slices.AppendSeq(all, maps.Keys(w))
	}
	k.allowed = append(k.allowed, all)
}

// choose draws a command. A quarantined version is sometimes cleared first, which no kill disturbs.
func (k *killed) choose() (command, truth) {
	before := k.truth(k.spec)
	possible := before.commands(k.spec, []uint32{1000, 5000, 9000}[k.random.IntN(3)])
	if before.Drains[newer].State == activeDrain && k.random.IntN(2) == 0 {
		k.closePostMortem(before.Drains[newer].Record, "false-alarm")
		return k.choose()
	}
	return possible[k.random.IntN(len(possible))], before
}

// calibrate runs every kind of command once without a kill, checks the model, and notes how long each takes.
func (k *killed) calibrate() {
	k.t.Helper()
	for _, kind := range []string{"weights", "rollback", "undo", "deploy", "deploy back", "override", "weights back"} {
		before := k.truth(k.spec)
		possible := before.commands(k.spec, 5000)
		at := slices.IndexFunc(possible, func(c command) bool { return c.kind == kind })
		if at < 0 {
			k.t.Fatalf("no %s is possible in %+v", kind, before)
		}
		c := possible[at]
		k.round(before.Weights, c.then.Weights)
		began := time.Now()
		if err := c.run(k.t.Context(), k.world); err != nil {
			k.t.Fatalf("%s: %v", kind, err)
		}
		k.reach[kind] = time.Since(began)
		if got := k.truth(k.spec); !cmp.Equal(got, c.then) {
			k.t.Fatalf("after %s (- want + got):\n%s", kind, cmp.Diff(c.then, got))
		}
		k.follows(c.then)
		k.flips.add()
	}
	k.t.Logf("kills come within %v", k.reach)
}

// killIn kills the control plane while it carries out a command, starts it again, and says whether the command was done (1) or not (0).
func (k *killed) killIn(n int, c command, before truth) (done int) {
	k.t.Helper()
	k.round(before.Weights, c.then.Weights)
	delay := time.Duration(k.random.Int64N(int64(k.reach[c.kind])))
	answer := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	moment := time.NewTimer(delay)
	go func() { answer <- c.run(ctx, k.world) }()
	<-moment.C
	k.xds.kill()
	err := <-answer
	k.restartXDS()

	what := fmt.Sprintf("round %d: %s at generation %d, killed after %v (answer: %v)", n, c.kind, before.Generation, delay, err)
	switch connect.CodeOf(err) {
	case connect.CodeFailedPrecondition, connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAborted, connect.CodeInternal:
		k.t.Fatalf("%s: it was refused", what)
	}
	got := k.truth(k.spec)
	switch {
	case cmp.Equal(got, c.then):
		done, k.reach[c.kind] = 1, k.reach[c.kind]*7/8
	case err == nil:
		k.t.Fatalf("%s: it was confirmed, and is lost (- want + got):\n%s", what, cmp.Diff(c.then, got))
	case cmp.Equal(got, before):
		done, k.reach[c.kind] = 0, k.reach[c.kind]*8/7
	default:
		k.t.Fatalf("%s: neither old nor new.\nold (- want + got):\n%s\nnew (- want + got):\n%s", what, cmp.Diff(before, got), cmp.Diff(c.then, got))
	}
	k.follows(got)
	k.flips.add()
	return done
}

// follows waits until proxies and sidecars do what is true: the proxy has acknowledged it, every sidecar is back, and only versions with
// weight answer.
func (k *killed) follows(s truth) {
	k.t.Helper()
	eventually(k.t, fmt.Sprintf("effect of generation %d", s.Generation), func() error {
		res, err := k.client.GetEffect(k.t.Context(), connect.NewRequest(&operatorv1.GetEffectRequest{Spec: k.spec}))
		if err != nil {
			return err
		}
		e := res.Msg
		if e.GetGeneration() != s.Generation || !e.GetEffective() || e.GetProxiesAcked() != 1 || e.GetProxiesTotal() != 1 {
			return fmt.Errorf("%v", e)
		}
		if d := s.Drains[newer]; d.State == activeDrain && d.Generation == s.Generation && e.GetFencesAcked() != 2 {
			return fmt.Errorf("fences: %v", e)
		}
		for _, v := range k.world.spec(k.spec).GetVersions() {
			if p := v.GetPool(); p.GetSilent() != 0 || p.GetReady() != 2 {
				return fmt.Errorf("%s: %v", v.GetVersion(), p)
			}
		}
		return nil
	})
	eventually(k.t, fmt.Sprintf("answers by %v alone", s.Weights), func() error {
		seen := map[string]bool{}
		for i := range 20 {
			version, err := k.probe.unary(k.t.Context(), fmt.Sprintf("probe-%d", i))
			if err != nil {
				k.t.Fatalf("probe at generation %d: %v", s.Generation, err)
			}
			if s.Weights[version] == 0 {
				return fmt.Errorf("%s answered", version)
			}
			seen[version] = true
		}
		if len(seen) != len(s.Weights) {
			return fmt.Errorf("only %v answered", seen)
		}
		return nil
	})
}
