package auth

import "github.com/prometheus/client_golang/prometheus"

// Register shows whether the file of named tokens is in force as it stands.
func (k *Keyring) Register(reg prometheus.Registerer) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "specproxy_tokens_broken", Help: "1 while --tokens has changed and cannot be used: the tokens before the change are in force, also any that it takes away.",
	}, func() float64 {
		if k.Broken() {
			return 1
		}
		return 0
	}))
}
