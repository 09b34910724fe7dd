package drain

// chain links entries in the order of their last change, so that reading what changed costs what changed. Its owner's lock guards it and the
// links of its entries.
type chain struct {
	front, back *entry
	length      int
}

// links are an entry's place in the one chain it is in.
type links struct {
	prev, next *entry
	in         *chain
	// seq numbers the entry's last change.
	seq uint64
}

// push puts the entry at the back, from wherever in this chain it was.
func (c *chain) push(e *entry, seq uint64) {
	if e.in == c {
		c.remove(e)
	}
	e.links = links{prev: c.back, in: c, seq: seq}
	if c.back == nil {
		c.front = e
	} else {
		c.back.next = e
	}
	c.back = e
	c.length++
}

func (c *chain) remove(e *entry) {
	if e.prev == nil {
		c.front = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		c.back = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.links = links{seq: e.seq}
	c.length--
}

// changed is an entry with the number of the change that it was found by.
type changed struct {
	seq   uint64
	entry *entry
}

// since appends the entries that changed after seq.
func (c *chain) since(seq uint64, to []changed) []changed {
	for e := c.back; e != nil && e.seq > seq; e = e.prev {
		to = append(to, changed{e.seq, e})
	}
	return to
}
