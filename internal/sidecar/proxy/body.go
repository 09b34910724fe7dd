package proxy

import (
	"errors"
	"io"
	"sync"
)

// requestBody counts a request's body as the agent's transport reads it, tells the ledger when it has ended, and keeps a copy where a
// hand-over would have to send it again itself.
type requestBody struct {
	io.ReadCloser
	x *exchange
	// limit is the size up to which the body can be replayed, by Envoy or by us.
	limit int64

	mu    sync.Mutex // the transport reads on a goroutine of its own
	size  int64
	keeps bool
	kept  []byte
	ended bool
	peek  peek
}

func newRequestBody(x *exchange) *requestBody {
	b := &requestBody{ReadCloser: x.in.Body, x: x, limit: x.arrival.buffer, peek: newPeek(x)}
	if !x.arrival.redirectable() {
		// Only we can replay it.
		b.keeps = x.proxy.keepsBody && x.arrival.kind != upgrade && x.in.ContentLength <= int64(x.proxy.BodyBuffer)
		b.limit = int64(x.proxy.BodyBuffer)
	}
	return b
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	b.size += int64(n)
	if b.keeps {
		if b.size > b.limit || !b.x.proxy.budget.take(int64(n)) {
			b.keeps = false
			b.drop()
		} else {
			b.kept = append(b.kept, p[:n]...)
		}
	}
	whole := errors.Is(err, io.EOF) || err == nil && b.x.in.ContentLength > 0 && b.size == b.x.in.ContentLength
	begin, look := b.peek.take(p[:n], whole)
	b.mu.Unlock()
	if b.x.captured != nil {
		b.x.captured.request.take(p[:n], whole)
	}
	if look {
		b.x.observe(begin)
	}
	if whole {
		b.finish()
	}
	return n, err
}

// finish tells the ledger, once, that the whole request is here. An upgrade's never is: the connection goes on.
func (b *requestBody) finish() {
	b.mu.Lock()
	first := !b.ended
	b.ended = true
	replayable := b.size <= b.limit && (b.keeps || b.x.arrival.redirectable()) && b.x.arrival.kind != upgrade
	b.mu.Unlock()
	b.x.sent.Store(true)
	if first && b.x.arrival.kind != upgrade {
		b.x.execution.RequestEnded(replayable)
	}
}

// copied is the whole body, if it was kept to its end.
func (b *requestBody) copied() ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept, b.keeps && b.ended
}

// drop gives the copy's memory back.
func (b *requestBody) drop() {
	b.x.proxy.budget.give(int64(len(b.kept)))
	b.kept = nil
}

// release ends the copy with its exchange.
func (b *requestBody) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keeps = false
	b.drop()
}
