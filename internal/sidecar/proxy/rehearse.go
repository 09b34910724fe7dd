package proxy

import "net/http"

// rehearsalPath is where the control plane sends synthetic executions, which prove by what way they come. No agent sees them.
const rehearsalPath = "/.well-known/specproxy/rehearsal"

// rehearse answers a synthetic execution: this version, and the round of the rehearsal whose route led here, if it came by one. It is no execution: it
// is not admitted, counted or judged, and no fence concerns it.
func (p *Proxy) rehearse(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h[headerVersion] = p.version
	if round := r.Header.Get(headerRehearsal); round != "" && len(round) <= maxHeader {
		h.Set(headerRehearsal, round)
	}
	w.WriteHeader(http.StatusNoContent)
}
