package drain

import (
	"math"
	"time"
)

// durationBuckets bounds a Durations. Bucket i holds what is longer than DurationBound(i-1) and at most DurationBound(i); the last one also what
// is longer. Four buckets double: a quantile is at most 19 % too high, from 1 ms to more than two days.
const durationBuckets = 112

// Durations counts how long executions took, in buckets that grow by a fixed factor. Trailing zeros are left out, so that it is short on the
// wire. Two of them add up bucket by bucket. The zero value is empty.
type Durations []uint64

// DurationBound is the upper bound of a bucket.
func DurationBound(i int) time.Duration {
	return time.Duration(float64(time.Millisecond) * math.Exp2(float64(i)/4))
}

// durationBucket finds the bucket of a duration.
func durationBucket(d time.Duration) int {
	if d <= time.Millisecond {
		return 0
	}
	i := int(math.Ceil(4 * math.Log2(float64(d)/float64(time.Millisecond))))
	if i > 0 && d <= DurationBound(i-1) { // rounding
		i--
	}
	return min(i, durationBuckets-1)
}

// Plus is the sum of two. What is beyond the known buckets counts as the longest.
func (d Durations) Plus(o Durations) Durations {
	sum := make(Durations, max(len(d), min(len(o), durationBuckets)))
	copy(sum, d)
	for i, n := range o {
		sum[min(i, durationBuckets-1)] += n
	}
	return sum
}

// Count of all.
func (d Durations) Count() (n uint64) {
	for _, c := range d {
		n += c
	}
	return n
}

// Quantile is a duration that at least a share q (0 to 1) of them did not pass; false if there are none.
func (d Durations) Quantile(q float64) (time.Duration, bool) {
	n := d.Count()
	if n == 0 {
		return 0, false
	}
	want, seen := uint64(math.Ceil(q*float64(n))), uint64(0)
	for i, c := range d {
		if seen += c; seen >= want && c > 0 {
			return DurationBound(i), true
		}
	}
	return DurationBound(len(d) - 1), true
}

// longer is how many took longer than t; those of t's own bucket count by the part of it that lies beyond t.
func (d Durations) longer(t time.Duration) float64 {
	if t <= 0 {
		return float64(d.Count())
	}
	at, n := durationBucket(t), 0.0
	for i := at + 1; i < len(d); i++ {
		n += float64(d[i])
	}
	if at < len(d) {
		low := time.Duration(0)
		if at > 0 {
			low = DurationBound(at - 1)
		}
		part := float64(DurationBound(at)-t) / float64(DurationBound(at)-low)
		n += float64(d[at]) * min(max(part, 0), 1)
	}
	return n
}

// DefaultBounds holds the default deadline where a contract declares no bounds.
var DefaultBounds = Range{Min: time.Minute, Max: time.Hour}

// DefaultDeadline is how long an execution may go on where its rule gives no deadline: twice the pool's own 99th percentile, within the
// contract's bounds. Of a pool that has not ended anything yet nothing is known, and the upper bound holds.
func (c Contract) DefaultDeadline(pool Durations) time.Duration {
	bounds := c.DefaultWithin
	if bounds.IsZero() {
		bounds = DefaultBounds
	}
	p99, known := pool.Quantile(0.99)
	if !known {
		return bounds.Max
	}
	return min(max(2*p99, bounds.Min), bounds.Max)
}

// Remaining is one running execution, for an estimate of when all have ended.
type Remaining struct {
	Started time.Time
	// Until ends it at the latest; zero: nothing does.
	Until time.Time
}

// Estimate is how long it takes until all have ended with a probability of one half, if they go on as the pool's executions did, given how
// long each has run already. One that has run longer than any before it counts by its deadline alone; false if one has none. Those of about the
// same age and deadline count together, so that it costs little for any number of them.
func Estimate(pool Durations, running []Remaining, now time.Time) (time.Duration, bool) {
	const never = durationBuckets
	type group struct{ age, left int }
	groups := map[group]float64{}
	sure := time.Duration(0)
	for _, x := range running {
		age, left := max(now.Sub(x.Started), 0), never
		if !x.Until.IsZero() {
			left = durationBucket(x.Until.Sub(now))
		}
		switch {
		case pool.longer(age) > 0:
			groups[group{durationBucket(age), left}]++
		case x.Until.IsZero():
			return 0, false
		default:
			sure = max(sure, x.Until.Sub(now))
		}
	}
	ended := func(at int) bool {
		p := 1.0
		for g, n := range groups {
			if g.left <= at {
				continue
			}
			age := time.Duration(0)
			if g.age > 0 {
				age = DurationBound(g.age - 1)
			}
			p *= math.Pow(1-pool.longer(age+DurationBound(at))/pool.longer(age), n)
		}
		return p >= 0.5
	}
	if len(groups) == 0 {
		return sure, true
	}
	at := 0
	for at < durationBuckets-1 && !ended(at) {
		at++
	}
	return max(DurationBound(at), sure), true
}
