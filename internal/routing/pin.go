package routing

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
)

// Pin is the x-spec-pin token of one version: a capability that only this cluster's responses hand out, not a name that can be guessed.
// It is a MAC of "pin/<spec>@<version>" under the cluster secret, 32 hex digits.
func Pin(secret []byte, spec, version string) string {
	return hex.EncodeToString(mac(secret, "pin/"+spec+"@"+version)[:16])
}

// ExecutionKey is the key under which one version's sidecars sign the execution ids they mint; 32 bytes.
func ExecutionKey(secret []byte, spec, version string) []byte {
	return mac(secret, "execution/"+spec+"@"+version)
}

// Cluster is the Envoy cluster name of one version whose sidecars take plain requests.
func Cluster(spec, version string) string { return spec + "@" + version }

// ClusterOver is the Envoy cluster name of one version where a transport is wanted for some of its sidecars.
func ClusterOver(spec, version string, t Transport) string {
	if t == Plain {
		return Cluster(spec, version)
	}
	return Cluster(spec, version) + "/" + string(t)
}

// InstanceKey is the value of x-spec-instance that makes Envoy choose this host: base64 of host:port.
func InstanceKey(address string) string { return base64.StdEncoding.EncodeToString([]byte(address)) }

func mac(secret []byte, text string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(text))
	return h.Sum(nil)
}
