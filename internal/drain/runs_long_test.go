//go:build long

package drain_test

const (
	fleetRuns  = 5000
	ledgerRuns = 60
)
