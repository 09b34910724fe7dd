//go:build !long

package drain_test

// How much is tried at random: enough here that every mutant is caught (TestMutantsAreCaught), many times as much with the build tag long.
const (
	fleetRuns  = 300
	ledgerRuns = 6
)
