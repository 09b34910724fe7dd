package fanout

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"connectrpc.com/connect"

	"github.com/specproxy/specproxy/bench/rig"
	"github.com/specproxy/specproxy/bench/swarm"
	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/routing"
)

// plane is ours: a control plane with the measured spec.
type plane struct {
	*server
	control *rig.Control
	at      int
}

func startOurs(ctx context.Context, o Options, stack *rig.Stack, dir string, unborn []string) (*server, error) {
	p, err := startPlane(ctx, o, stack, dir, unborn)
	if err != nil {
		return nil, err
	}
	return p.server, nil
}

func startPlane(ctx context.Context, o Options, stack *rig.Stack, dir string, unborn []string) (*plane, error) {
	control, err := rig.StartPair(ctx, stack, dir, o.Xds, unborn)
	if err != nil {
		return nil, err
	}
	p := &plane{control: control}
	p.server = &server{
		name: ours, process: control.Process, flip: p.shift,
		address: func(context.Context) (string, error) { return control.GRPC, nil },
		// As specctl does.
		proven: func(ctx context.Context) error { return rig.Proven(ctx, control, p.streams) },
	}
	return p, nil
}

// shift gives almost all weight to the other version.
func (p *plane) shift(ctx context.Context) error {
	p.at = 1 - p.at
	_, err := p.control.API.SetWeights(ctx, connect.NewRequest(&operatorv1.SetWeightsRequest{Spec: rig.Pair, Reason: "benchmark", Weights: []*operatorv1.Weight{
		{Version: rig.PairVersions[p.at], BasisPoints: routing.Full - 1}, {Version: rig.PairVersions[1-p.at], BasisPoints: 1},
	}}))
	if err != nil {
		return fmt.Errorf("set weights: %w", err)
	}
	return nil
}

// startPeer starts one that is compared with.
func startPeer(ctx context.Context, o Options, stack *rig.Stack, dir, name string, streams int) (*server, error) {
	process, err := rig.Start(dir, name, o.Self, "child", "fanout", name, strconv.Itoa(streams))
	if err != nil {
		return nil, err
	}
	stack.Push(process.Stop)
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not up after %s", startTimeout))
	defer cancel()
	line, err := process.FirstLine(ctx)
	if err != nil {
		return nil, err
	}
	var said struct{ Address string }
	if err := json.Unmarshal([]byte(line), &said); err != nil {
		return nil, fmt.Errorf("%s: its first line %q names no address: %w", name, line, err)
	}
	url := "http://" + said.Address
	return &server{
		name: name, process: process,
		flip: func(ctx context.Context) error { return swarm.Call(ctx, url+"/flip", nil) },
		address: func(ctx context.Context) (address string, err error) {
			err = swarm.Call(ctx, url+"/address", &address)
			return address, err
		},
	}, nil
}
