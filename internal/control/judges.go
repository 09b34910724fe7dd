package control

import (
	"context"
	"fmt"
	"time"

	"github.com/specproxy/specproxy/internal/rollout"
	judge "github.com/specproxy/specproxy/internal/rollout/evidence"
	"github.com/specproxy/specproxy/internal/store"
)

// Numbers gives what a PromQL query gives now.
type Numbers interface {
	Number(ctx context.Context, query string) (float64, error)
}

// tendJudges asks the judges that are due, in the background: nothing waits for them.
func (c *Controller) tendJudges(ctx context.Context, ro store.Rollout, now time.Time) {
	for i := range ro.Plan.Judges {
		if !ro.Asks(i, now) {
			continue
		}
		// A step asks for itself: it waits for no answer that the one before it still waits for.
		c.errands.run(fmt.Sprintf("judge/%s/%s/%d/%d/%d", ro.Spec, ro.Canary, ro.Attempt, ro.Step, i), func() { c.askJudge(ctx, ro, i) })
	}
}

func (c *Controller) askJudge(ctx context.Context, ro store.Rollout, i int) {
	j := ro.Plan.Judges[i]
	heard := rollout.JudgeAnswer{Step: ro.Step, AskedAt: time.Now().UTC()}
	var a answer
	if j.Webhook != "" {
		q := asked(ro, "judge")
		q.Judge, q.Step = j.Name, ro.Step+1
		id := fmt.Sprintf("%s/%s/%d/%d/%s/%d", ro.Spec, ro.Canary, ro.Attempt, ro.Step, j.Name, heard.AskedAt.UnixNano())
		err := c.hooks().Post(ctx, j.Webhook, id, j.AskTimeout(), q, &a)
		a = verified(err, a)
	} else {
		a, heard.Value = c.measure(ctx, ro, i)
	}
	if ctx.Err() != nil {
		return // this replica leads no more: that is no answer, not even none
	}
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		now, ok := tx.Rollout(ro.Spec)
		if !ok || now.Canary != ro.Canary || now.Attempt != ro.Attempt || !now.StartedAt.Equal(ro.StartedAt) || now.Phase.Ended() {
			return nil
		}
		heard.At, heard.Result, heard.Why = time.Now().UTC(), a.Result, a.reason()
		now.Run = now.Heard(i, heard)
		tx.PutRollout(now)
		return nil
	})
	c.lament(ctx, "keep a judge's answer", ro.Spec, err)
}

// measure asks Prometheus: what its number means, and the number where it is one.
func (c *Controller) measure(ctx context.Context, ro store.Rollout, i int) (answer, *float64) {
	j := ro.Plan.Judges[i]
	if c.prometheus == nil {
		return answer{judge.Insufficient, "this replica knows no Prometheus (xds --prometheus)"}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, j.AskTimeout())
	defer cancel()
	n, err := c.prometheus.Number(ctx, ro.Query(j))
	if err != nil {
		return answer{judge.Insufficient, "no answer: " + err.Error()}, nil
	}
	result, why := j.Measured(n)
	if result == judge.Insufficient {
		return answer{result, why}, nil
	}
	return answer{result, why}, &n
}

// verified is what an answer says, which is nothing if there was none or it says none of the three.
func verified(err error, a answer) answer {
	switch {
	case err != nil:
		return answer{judge.Insufficient, "no answer: " + err.Error()}
	case a.Result == judge.Pass || a.Result == judge.Fail || a.Result == judge.Insufficient:
		return a
	}
	return answer{judge.Insufficient, fmt.Sprintf("no answer: result %q is none of pass, fail and insufficient", answer{Reason: string(a.Result)}.reason())}
}
