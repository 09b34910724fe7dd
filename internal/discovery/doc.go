// Package discovery is the ADS server for Envoy (delta) and for gRPC clients without a proxy (state of the world), and the ledger of what each
// of them acknowledged, here or at another replica.
//
// One goroutine (Run) builds the resources of changed specs and publishes them in the catalog. Every stream has one goroutine that owns
// all of the stream's state. A change is put into the mailboxes of the streams that follow the spec, as a set of names and not as a queue,
// so it costs nothing to the others, and a slow reader is owed at most every name once.
//
// Invariants, per stream:
//   - at most one push per resource type is unacknowledged;
//   - make before break: a cluster, then its endpoints, then the route that refers to it; a cluster is removed only once no route that
//     the Envoy acknowledged, or was sent, refers to it;
//   - a refused version is not an acknowledged one: it is not sent again, and what the Envoy held before stays what it holds;
//   - what the Envoy says it has already is not sent again;
//   - a route is never replaced by one of a lower generation, so a replica that lags cannot undo a rollback;
//   - only specs whose RouteConfiguration the Envoy asked for have clusters there.
//
// An Envoy that has just reconnected counts as holding whatever it may still hold until it has said otherwise.
package discovery
