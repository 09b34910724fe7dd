// Package signing makes and checks signatures of spec versions: DSSE envelopes around in-toto statements.
//
// A statement names one version and the digest of its OCI image manifest. That digest covers spec.yaml and with it the in-flight contract, and
// every document; so a signature covers all of a version, and nothing of it can be exchanged under a signature. Invariants:
//   - what Verify accepts was signed by one of the given keys, as a statement of our own kind, about exactly this name, version and digest;
//   - the keys that an envelope names prove nothing: only the given ones are tried;
//   - everything is checked before anything of a statement is believed.
//
// The package does no I/O. It is linked into the sidecar.
package signing
