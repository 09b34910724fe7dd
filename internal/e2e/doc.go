// Package e2e holds the end-to-end tests: the real control plane, real sidecars, a stock Envoy, real sockets. It has no code of its own.
package e2e
