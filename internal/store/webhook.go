package store

import "time"

// Webhook is how far one receiver has been told. What is to be told is the chain itself, so nothing else has to be kept, and a rollback writes
// nothing for it.
type Webhook struct {
	Name string `json:"name"`
	// Seq is the newest event of the chain of which nothing is left to tell; Parts how many messages of the next one have been delivered.
	Seq   uint64 `json:"seq"`
	Parts int    `json:"parts,omitempty"`
	// Overdue are the ids of the messages about what is overdue that were delivered, while it is.
	Overdue []string `json:"overdue,omitempty"`
	// Head is the newest link of the chain that was delivered as such, HeadAt when.
	Head   uint64    `json:"head,omitempty"`
	HeadAt time.Time `json:"headAt,omitzero"`
}

var webhooks = newKind("webhooks", func(Webhook) []string { return nil })

// PutWebhook writes how far a receiver has been told.
func (t *Tx) PutWebhook(w Webhook) { t.put(webhooks, path(w.Name), w) }

// Webhook returns how far a receiver has been told; false if it never was.
func (r reader) Webhook(name string) (Webhook, bool) { return one[Webhook](r, webhooks, path(name)) }
