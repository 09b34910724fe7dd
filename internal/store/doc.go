// Package store keeps every durable record of the control plane: etcd is the truth, go-memdb is this replica's indexed view of it.
//
// Invariants:
//   - one key holds one record, as JSON, under a versioned prefix;
//   - one Update is one etcd transaction: all of it is there after a crash, or none of it;
//   - an Update commits only if nothing it read has changed, neither a record, nor the absence of one, nor a list;
//   - a View is immutable, holds exactly the records of one revision, and views are published in revision order, each revision whole;
//   - Update returns once this replica's own view holds what it wrote.
//
// The package is the only importer of etcd and go-memdb. Records it returns share their slices and maps with other readers: clone before
// changing one.
package store
