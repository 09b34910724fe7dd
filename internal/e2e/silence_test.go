//go:build !long

package e2e

import "time"

// silence is how long sidecars are kept from a control plane that was restarted; ten seconds under the build tag "long".
const silence = 3 * time.Second
