package main

import (
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/specproxy/specproxy/internal/sidecar"
)

// openAccess opens the access log. Lines are written when many have come together, a second after they were made at the latest.
func openAccess(o *sidecar.Options, path string) (closeLog func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	file := os.Stdout
	if path != "-" {
		if file, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			return nil, fmt.Errorf("--access-log: %w", err)
		}
	}
	out := &zapcore.BufferedWriteSyncer{WS: file, Size: 64 << 10, FlushInterval: time.Second}
	encoder := zap.NewProductionEncoderConfig()
	encoder.TimeKey, encoder.EncodeTime, encoder.LevelKey, encoder.MessageKey = "time", zapcore.RFC3339NanoTimeEncoder, zapcore.OmitKey, zapcore.OmitKey
	o.Access = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoder), out, zapcore.InfoLevel))
	return func() {
		_ = out.Stop() // nothing is left to say where it could not be written
		if file != os.Stdout {
			_ = file.Close()
		}
	}, nil
}
