package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"

	"github.com/specproxy/specproxy/gen/specproxy/operator/v1/operatorv1connect"
)

// Control is a running control plane.
type Control struct {
	*Process
	// GRPC is where proxies and sidecars connect, host:port.
	GRPC string
	// API is called as the first admin.
	API operatorv1connect.OperatorServiceClient
}

// StartControl runs bin/xds on a new data directory and returns once it listens.
func StartControl(ctx context.Context, dir, name, xds string) (*Control, error) {
	data := filepath.Join(dir, name+".data")
	p, err := Start(dir, name, xds, "--data-dir", data, "--api", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--log-level", "warn")
	if err != nil {
		return nil, err
	}
	c := &Control{Process: p}
	if err := c.await(ctx, data); err != nil {
		p.Stop()
		return nil, err
	}
	return c, nil
}

func (c *Control) await(ctx context.Context, data string) error {
	line, err := c.FirstLine(ctx)
	if err != nil {
		return err
	}
	var addresses struct{ API, GRPC string }
	if err := json.Unmarshal([]byte(line), &addresses); err != nil {
		return fmt.Errorf("%s: its first line %q names no addresses: %w", c.name, line, err)
	}
	token, err := os.ReadFile(filepath.Join(data, "admin.token"))
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	c.GRPC = addresses.GRPC
	c.API = operatorv1connect.NewOperatorServiceClient(http.DefaultClient, "http://"+addresses.API, connect.WithInterceptors(bearer(strings.TrimSpace(string(token)))))
	return nil
}

// bearer sends the token with every call.
func bearer(token string) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			req.Header().Set("Authorization", "Bearer "+token)
			return next(ctx, req)
		}
	}
}
