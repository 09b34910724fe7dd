//go:build long

package discovery_test

func init() { lives = 60 }
