// Package terminal reads from an answer, as it passes, what the agent's protocol says of how the work ended: A2A task states, MCP's isError and
// JSON-RPC errors, OpenAI's finish reasons, statuses and errors, AG-UI's RUN_ERROR.
//
// Invariants: it keeps at most Limit bytes of an answer and changes none; what it cannot read says nothing; a failure is not taken back by what
// comes later in the same answer. The package is pure.
package terminal

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
)

// Limit is how much of a document, or of one event, is looked at. A longer one says nothing.
const Limit = 64 << 10

// Outcome is what an answer says. The zero value: nothing.
type Outcome struct {
	Known   bool
	Success bool
	// Reason of a failure.
	Reason string
}

// Watcher looks at one answer.
type Watcher struct {
	events bool
	held   []byte // of the document, or of a line
	data   []byte // of the event
	lost   bool   // the document, line or event is longer than is looked at
	saw    Outcome
}

// Watch begins to look at an answer with these headers; nil if it can say nothing: it is neither JSON nor events, or is compressed.
func Watch(h http.Header) *Watcher {
	if len(h["Content-Encoding"]) > 0 {
		return nil
	}
	values := h["Content-Type"]
	if len(values) == 0 {
		return nil
	}
	kind, _, _ := strings.Cut(values[0], ";") // by hand: it is done for every answer
	switch kind = strings.TrimSpace(kind); {
	case strings.EqualFold(kind, "application/json"), strings.EqualFold(kind, "application/a2a+json"):
		return idle.Get().(*Watcher)
	case strings.EqualFold(kind, "text/event-stream"):
		w := idle.Get().(*Watcher)
		w.events = true
		return w
	}
	return nil
}

// idle watchers keep their buffers: most answers are looked at in vain, and should cost nothing.
var idle = sync.Pool{New: func() any { return new(Watcher) }}

// Write looks at the next bytes.
func (w *Watcher) Write(p []byte) {
	if !w.events {
		w.document(p)
		return
	}
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			w.hold(p)
			return
		}
		if len(w.held) == 0 {
			w.line(p[:end])
		} else {
			w.hold(p[:end])
			w.line(w.held)
			w.held = w.held[:0]
		}
		p = p[end+1:]
	}
}

func (w *Watcher) document(p []byte) {
	if w.lost {
		return
	}
	if len(w.held)+len(p) > Limit {
		w.lost, w.held = true, w.held[:0]
		return
	}
	w.held = append(w.held, p...)
}

func (w *Watcher) hold(p []byte) {
	if len(w.held)+len(p) > Limit {
		w.lost = true // its event is left out; what is held of it is no field that counts
		p = p[:max(0, Limit-len(w.held))]
	}
	w.held = append(w.held, p...)
}

// line reads one line of an event stream (HTML Living Standard, "Server-sent events"). Lines that end in a lone CR are not read: nobody sends them.
func (w *Watcher) line(l []byte) {
	l = bytes.TrimSuffix(l, []byte{'\r'})
	if len(l) == 0 {
		if !w.lost {
			w.look(w.data)
		}
		w.data, w.lost = w.data[:0], false
		return
	}
	value, ok := bytes.CutPrefix(l, []byte("data:"))
	if !ok {
		return
	}
	value = bytes.TrimPrefix(value, []byte{' '})
	if len(w.data)+len(value) >= Limit {
		w.lost = true
		return
	}
	if len(w.data) > 0 {
		w.data = append(w.data, '\n')
	}
	w.data = append(w.data, value...)
}

// End is what the answer said, once it has ended. The watcher is not to be used any more.
func (w *Watcher) End() Outcome {
	if !w.events && !w.lost {
		w.look(w.held)
	}
	saw := w.saw
	*w = Watcher{held: w.held[:0], data: w.data[:0]}
	idle.Put(w)
	return saw
}

// look takes what a document says.
func (w *Watcher) look(document []byte) {
	if w.saw.Known && !w.saw.Success {
		return
	}
	if o := Read(document); o.Known {
		w.saw = o
	}
}
