package evidence

import "math"

// balanceBets are the bets of the sample-ratio check on each side: the canary gets r or 1/r times its share, r from 1.25 to 20. Nearer ratios
// are not bet on: arms report at different moments, and that alone tips a balance a little.
const balanceBets = 10

// Share is how many units were assigned to each arm while the canary had one weight.
type Share struct {
	Weight   uint16
	Assigned [2]uint64
}

// LogImbalance is the logarithm of an e-process against "units are assigned by the weights". At level alpha the measurement is broken once it
// is at least -ln(alpha): then no failure rate of either arm can be believed.
func LogImbalance(shares []Share) float64 {
	var logs [2 * balanceBets]float64
	for i := range balanceBets {
		r := 1.25 * math.Pow(16, float64(i)/(balanceBets-1))
		logs[2*i], logs[2*i+1] = logTilt(shares, r), logTilt(shares, 1/r)
	}
	return logMeanFloat(logs[:])
}

func logTilt(shares []Share, r float64) float64 {
	var sum float64
	for _, s := range shares {
		if s.Weight == 0 || s.Weight >= Whole {
			continue
		}
		w := float64(s.Weight) / Whole
		odds := math.Log(w*r + 1 - w)
		sum += float64(s.Assigned[Canary])*(math.Log(r)-odds) - float64(s.Assigned[Stable])*odds
	}
	return sum
}
