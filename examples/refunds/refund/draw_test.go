package refund

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDrawFollowsTheDistributionItPrints(t *testing.T) {
	const n = 50_000
	for _, seed := range []uint64{1, 7, 20261124} {
		var closed, over100, over250 int
		for i := range n {
			r := Standard.Draw(seed, i)
			if r.AmountCents <= 500 || r.AmountCents > TrueLimitCents {
				t.Fatalf("seed %d refund %d asks for %d cents", seed, i, r.AmountCents)
			}
			if AccountClosed(r.Customer) {
				closed++
			}
			if r.AmountCents > 10_000 {
				over100++
			}
			if r.AmountCents > 25_000 {
				over250++
			}
		}
		for _, c := range []struct {
			what  string
			got   int
			share float64
		}{
			{"closed accounts", closed, 0.02},
			{"over $100", over100, 1 - Standard.Within(10_000)},
			{"over $250", over250, 1 - Standard.Within(25_000)},
		} {
			// Five standard deviations of a share of n draws.
			slack := 5 * math.Sqrt(c.share*(1-c.share)/n)
			if got := float64(c.got) / n; math.Abs(got-c.share) > slack {
				t.Errorf("seed %d: %s: drew %.4f, want %.4f ± %.4f", seed, c.what, got, c.share, slack)
			}
		}
	}
}

func TestDrawIsAFunctionOfSeedAndNumber(t *testing.T) {
	if a, b := Standard.Draw(7, 42), Standard.Draw(7, 42); a != b {
		t.Errorf("the same refund drawn twice differs: %s", cmp.Diff(a, b))
	}
	if a, b := Standard.Draw(7, 42), Standard.Draw(8, 42); a.AmountCents == b.AmountCents && a.Customer == b.Customer {
		t.Error("two seeds drew the same refund")
	}
}

func TestPrediction(t *testing.T) {
	for _, c := range []struct {
		limitCents int
		want       float64
	}{
		{0, 0}, {10_000, 0.73 * 0.98}, {25_000, (0.73 + 0.27*15/40) * 0.98}, {TrueLimitCents, 0.98}, {99_999, 0.98},
	} {
		if got := Standard.Success(c.limitCents); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("Success(%d) = %.4f, want %.4f", c.limitCents, got, c.want)
		}
	}
}

func TestLogKeepsWholeLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.jsonl")
	log, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []LedgerLine{
		{Payment: Payment{RefundID: "a", AmountCents: 1}, Result: Paid},
		{Payment: Payment{RefundID: "a", AmountCents: 1}, Result: Paid},
		{Payment: Payment{RefundID: "b", AmountCents: 2}, Result: Refused, Reason: "account closed"},
	}
	for _, l := range want {
		if err := log.Append(l); err != nil {
			t.Fatal(err)
		}
	}
	log.Close()
	got, err := ReadLog[LedgerLine](path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}
