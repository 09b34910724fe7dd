package report

import (
	"math"
	"slices"
)

// Median of the values; 0 of none.
func Median(values []float64) float64 { return Percentile(values, 50) }

// Percentile p, in 0..100, of the values, interpolated between the two nearest; 0 of none.
func Percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := p / 100 * float64(len(sorted)-1)
	low, share := math.Modf(at)
	i := int(low)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + share*(sorted[i+1]-sorted[i])
}
