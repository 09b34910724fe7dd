//go:build long

package e2e

import "time"

const silence = 10 * time.Second
