package rig

import (
	"context"
	"time"
)

// Rest lets what is measured come to rest for a while that nothing announces the end of.
func Rest(ctx context.Context, while time.Duration) error {
	timer := time.NewTimer(while)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
