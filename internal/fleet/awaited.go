package fleet

import "time"

// awaitFor bounds how long after its start a process waits for sidecars that have not come back to it.
const awaitFor = 5 * time.Second

// Awaited says whether this process has only just started, and an instance of a version has not told it yet what it has counted. Versions are not
// to be compared meanwhile: one that reports first would be judged by the failures of a time of which nothing is known of the other.
func (f *Fleet) Awaited(spec, version string) bool {
	if time.Since(f.started) >= awaitFor {
		return false
	}
	instances := f.store.View().InstancesOf(spec, version)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, in := range instances {
		if m := f.members[in.ID]; m == nil || m.totals == nil {
			return true
		}
	}
	return false
}
