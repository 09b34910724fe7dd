package store

import (
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// noise is what a new embedded member complains of without reason: it looks for the version of its storage before the first write has
// reached the disk, and looks again later.
var noise = []string{"Failed to detect schema version", "failed to update storage version"}

// withoutNoise makes a logger drop the noise.
var withoutNoise = zap.WrapCore(func(core zapcore.Core) zapcore.Core { return quietCore{core} })

type quietCore struct{ zapcore.Core }

// With implements zapcore.Core.
func (c quietCore) With(fields []zapcore.Field) zapcore.Core { return quietCore{c.Core.With(fields)} }

// Check implements zapcore.Core.
func (c quietCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if slices.Contains(noise, e.Message) {
		return ce
	}
	return c.Core.Check(e, ce)
}
