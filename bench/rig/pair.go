package rig

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// pairTimeout bounds the start of a control plane with what it serves.
const pairTimeout = time.Minute

// StartPair runs a control plane that has the spec of SeedPair, with an agent for each version, and the unborn.
func StartPair(ctx context.Context, stack *Stack, dir, xds string, unborn []string) (*Control, error) {
	var agents [2]string
	for i := range agents {
		var err error
		if agents[i], err = StartAgent(ctx, stack); err != nil {
			return nil, err
		}
	}
	if err := SeedPair(ctx, filepath.Join(dir, "xds.data"), agents, unborn); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, pairTimeout, fmt.Errorf("not up after %s", pairTimeout))
	defer cancel()
	control, err := StartControl(ctx, dir, "xds", xds)
	if err != nil {
		return nil, err
	}
	stack.Push(control.Stop)
	return control, nil
}

// StartAgent serves "ok" to whoever asks, until the stack is stopped.
func StartAgent(ctx context.Context, stack *Stack) (address string, err error) {
	l, err := Listen(ctx)
	if err != nil {
		return "", fmt.Errorf("agent: %w", err)
	}
	agent := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n")) // Whoever asked sees what is missing.
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = agent.Serve(l) // Ends by Close alone.
	}()
	stack.Push(func() {
		_ = agent.Close() // It has answered all that will be asked.
		<-done
	})
	return l.Addr().String(), nil
}

// Proven waits until so many proxies, and no others, have acknowledged the current route of the spec of SeedPair.
func Proven(ctx context.Context, control *Control, proxies int) error {
	for {
		req := &operatorv1.GetEffectRequest{Spec: Pair, Wait: durationpb.New(20 * time.Second)}
		resp, err := control.API.GetEffect(ctx, connect.NewRequest(req))
		if err != nil {
			return fmt.Errorf("wait for the effect: %w", err)
		}
		e := resp.Msg
		if e.GetEffective() && int(e.GetProxiesAcked()) == proxies && int(e.GetProxiesTotal()) == proxies {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d of %d proxies have acknowledged, %d are wanted: %w", e.GetProxiesAcked(), e.GetProxiesTotal(), proxies, context.Cause(ctx))
		}
	}
}

// Publish publishes a version of a spec that has no more than it must.
func Publish(ctx context.Context, control *Control, name, version string) error {
	manifest := fmt.Sprintf("name: %s\nversion: %s\ndocuments: [prompt.md]\ninFlight:\n  default: {onRollback: complete, within: 30s, then: cancel}\n", name, version)
	_, err := control.API.Publish(ctx, connect.NewRequest(&operatorv1.PublishRequest{Files: []*operatorv1.File{
		{Path: "spec.yaml", Content: []byte(manifest)},
		{Path: "prompt.md", Content: []byte("Answer ok.\n")},
	}}))
	if err != nil {
		return fmt.Errorf("publish %s:%s: %w", name, version, err)
	}
	return nil
}
