package proxy

import "time"

// Stalled says that whole requests have waited for the agent's answer for at least patience, while nothing came from it at all: how many
// wait, and for how long nothing came.
func (p *Proxy) Stalled(patience time.Duration) (waiting int, since time.Duration, stalled bool) {
	now := p.Now()
	if heard := p.heard.Load(); heard != 0 && now.Sub(time.Unix(0, heard)) < patience {
		return 0, 0, false
	}
	var oldest time.Time
	p.mu.Lock()
	for x := range p.active {
		if x.awaited() {
			waiting++
			if oldest.IsZero() || x.arrival.at.Before(oldest) {
				oldest = x.arrival.at
			}
		}
	}
	p.mu.Unlock()
	if heard := time.Unix(0, p.heard.Load()); oldest.Before(heard) {
		oldest = heard
	}
	since = now.Sub(oldest)
	return waiting, since, waiting > 0 && since >= patience
}

// awaited says that the agent has the whole request and has not begun to answer.
func (x *exchange) awaited() bool {
	return !x.answered.Load() && x.sent.Load()
}
