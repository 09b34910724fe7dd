package shadow_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/shadow"
)

func TestSignIsTheExactTest(t *testing.T) {
	for _, c := range []struct {
		request, copied uint64
		want            float64
	}{
		{0, 1, 1}, {1, 1, 1}, {0, 5, 0.0625}, {5, 0, 0.0625}, {1, 9, 22.0 / 1024}, {2, 8, 112.0 / 1024}, {0, 20, 2 / math.Pow(2, 20)}, {500, 500, 1},
	} {
		got, ok := shadow.Tally{RequestFailed: c.request, CopyFailed: c.copied}.Sign()
		if !ok || math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%d and %d: %v, %v; want %v", c.request, c.copied, got, ok, c.want)
		}
	}
	if _, ok := (shadow.Tally{BothSucceeded: 9, Unknown: 3}).Sign(); ok {
		t.Error("a test on no pair")
	}
}

var outcomes = []string{shadow.Success, shadow.Failure, ""}

// In whatever order halves come, in whatever parts, told again or not, and with a leader that begins anew with all of them: each pair counts once.
func TestPairsCountOnce(t *testing.T) {
	at := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(0, 80).Draw(rt, "requests")
		var all []shadow.Half
		var want shadow.Tally
		seq := map[string]uint64{}
		half := func(i int, copied bool, outcome string) {
			instance := fmt.Sprintf("%t-%d", copied, i%2)
			seq[instance]++
			all = append(all, shadow.Half{Pair: fmt.Sprint("p", i), Copy: copied, Instance: instance, Seq: seq[instance], Outcome: outcome, At: at.Add(time.Duration(i) * time.Second)})
		}
		for i := range n {
			a, b := rapid.SampledFrom(outcomes).Draw(rt, "request"), rapid.SampledFrom(outcomes).Draw(rt, "copy")
			lost := rapid.SampledFrom([]string{"", "", "", "request", "copy"}).Draw(rt, "lost")
			if lost != "request" {
				half(i, false, a)
				want.Requests++
			}
			if lost != "copy" {
				half(i, true, b)
				want.Copies++
			}
			switch {
			case lost != "":
			case a == "" || b == "":
				want.Unknown++
			case a == shadow.Success && b == shadow.Success:
				want.BothSucceeded++
			case a == shadow.Failure && b == shadow.Failure:
				want.BothFailed++
			case a == shadow.Failure:
				want.RequestFailed++
			default:
				want.CopyFailed++
			}
		}
		// A replica keeps what it was told; each look may come at any moment, and another replica's look sees as much.
		var told []shadow.Half
		var got shadow.Tally
		rest := slices.Clone(all)
		for len(rest) > 0 {
			k := rapid.IntRange(1, len(rest)).Draw(rt, "told")
			told, rest = append(told, rest[:k]...), rest[k:]
			seen := slices.Clone(told)
			rand.New(rand.NewPCG(1, uint64(k))).Shuffle(len(seen), func(i, j int) { seen[i], seen[j] = seen[j], seen[i] })
			got, _ = got.Plus(seen)
			if again, moved := got.Plus(told); moved || !reflect.DeepEqual(again, got) {
				rt.Fatalf("the same halves again made %+v of %+v", again, got)
			}
		}
		if len(got.Discordant) != min(shadow.MaxDiscordant, int(want.RequestFailed+want.CopyFailed)) {
			rt.Fatalf("%d pairs are named", len(got.Discordant))
		}
		got.Discordant, got.Read = nil, nil
		if !reflect.DeepEqual(got, want) {
			rt.Fatalf("counted %+v, want %+v", got, want)
		}
	})
}

// Instances come and go while a shadow goes on: what is remembered of them stays bounded.
func TestInstancesThatAreGoneAreForgotten(t *testing.T) {
	var tally shadow.Tally
	for i := range 3000 {
		tally, _ = tally.Plus([]shadow.Half{
			{Pair: fmt.Sprint(i), Instance: fmt.Sprint("request-", i), Seq: 1, Outcome: shadow.Success}, {Pair: fmt.Sprint(i), Copy: true, Instance: "copy", Seq: uint64(i + 1), Outcome: shadow.Success},
		})
	}
	if tally.BothSucceeded != 3000 || len(tally.Read) > 1001 || tally.Read["copy"] != 3000 {
		t.Errorf("%d pairs, %d instances remembered", tally.BothSucceeded, len(tally.Read))
	}
}
