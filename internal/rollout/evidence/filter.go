package evidence

// filter remembers units in a fixed number of bytes (a Bloom filter). It may take a new unit for a known one, never the other way round: then a
// failure is left out whichever arm it was on, which costs power but no false alarm. With 1,000 failing units one in 30 is left out.
type filter []byte

const (
	filterBytes  = 1024
	filterProbes = 3
)

// add remembers a unit of a metric and says whether it was new.
func (f filter) add(metric int, key string) bool {
	h := mix(hash(key) + uint64(metric)*0x9e3779b97f4a7c15) //nolint:gosec // an index
	fresh := false
	for range filterProbes {
		bit := h % (filterBytes * 8)
		if f[bit/8]&(1<<(bit%8)) == 0 {
			f[bit/8] |= 1 << (bit % 8)
			fresh = true
		}
		h = mix(h)
	}
	return fresh
}

// hash is FNV-1a.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}
