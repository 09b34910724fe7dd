package flip

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/specproxy/specproxy/bench/rig"
	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

const (
	// spec is the one whose weights are flipped.
	spec = "measured"
	// full and almost share the weight: a version that keeps a trace of it is not abandoned, so no flip is a rollback.
	full, almost = 10_000, 9_999

	startTimeout = 60 * time.Second
)

// versionsOfSpec are the two versions, in the order they first get weight.
var versionsOfSpec = [2]string{"1.0.0", "2.0.0"}

// fleet is one control plane with its Envoy, two pools of one agent each, and specs that only weigh on it.
type fleet struct {
	subject
	control *rig.Control
}

// start brings a fleet up. The fleet is returned with an error too, for what of it runs.
func start(ctx context.Context, o Options, specs int) (f *fleet, err error) {
	f = &fleet{subject: subject{layout: scoped, specs: specs}}
	f.shift = f.setWeights
	dir := filepath.Join(o.Dir, fmt.Sprintf("fleet-%d", specs))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return f, fmt.Errorf("working directory: %w", err)
	}
	if err := rig.Seed(ctx, filepath.Join(dir, "xds.data"), specs-1, 0, ""); err != nil {
		return f, err
	}
	starting, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not up after %s", startTimeout))
	defer cancel()
	if f.control, err = rig.StartControl(starting, dir, "xds", o.Xds); err != nil {
		return f, err
	}
	f.stack.Push(f.control.Stop)
	if err := f.register(starting); err != nil {
		return f, err
	}
	if err := f.startPools(starting, o, dir); err != nil {
		return f, err
	}
	err = f.startEnvoy(starting, o, dir)
	return f, err
}

// register publishes the measured spec's versions.
func (f *fleet) register(ctx context.Context) error {
	for _, v := range versionsOfSpec {
		if err := rig.Publish(ctx, f.control, spec, v); err != nil {
			return err
		}
	}
	return nil
}

// startPools starts an agent and its sidecar for each version and waits until both are ready.
func (f *fleet) startPools(ctx context.Context, o Options, dir string) error {
	for _, v := range versionsOfSpec {
		upstream, stop, err := startAgent(ctx, v)
		if err != nil {
			return err
		}
		f.stack.Push(stop)
		sidecar, err := rig.Start(dir, "specproxy-"+v, o.Specproxy, "--control", f.control.GRPC, "--spec", spec+":"+v, "--listen", "127.0.0.1:0",
			"--upstream", "http://"+upstream, "--cache-dir", filepath.Join(dir, "cache-"+v), "--log-level", "warn")
		if err != nil {
			return err
		}
		f.stack.Push(sidecar.Stop)
	}
	return f.awaitReady(ctx, dir)
}

// startAgent serves the least that an agent can do. It says itself which version it is; behind a sidecar that is not believed.
func startAgent(ctx context.Context, version string) (address string, stop func(), err error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("agent: %w", err)
	}
	agent := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("x-spec-version", spec+":"+version)
		_, _ = w.Write([]byte("ok\n")) // Whoever asked sees what is missing.
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = agent.Serve(l) // Ends by Close alone.
	}()
	return l.Addr().String(), func() {
		_ = agent.Close() // It has answered all that will be asked.
		<-done
	}, nil
}

// awaitReady waits until every version has a ready instance.
func (f *fleet) awaitReady(ctx context.Context, dir string) error {
	var revision uint64
	for {
		resp, err := f.control.API.GetSpec(ctx, connect.NewRequest(&operatorv1.GetSpecRequest{Spec: spec, AfterRevision: revision, Wait: durationpb.New(time.Second)}))
		if err != nil {
			return fmt.Errorf("wait for the agents: %w: see %s", err, filepath.Join(dir, "specproxy-*.log"))
		}
		ready := 0
		for _, v := range resp.Msg.GetSpec().GetVersions() {
			if v.GetPool().GetReady() > 0 {
				ready++
			}
		}
		if ready == len(versionsOfSpec) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the agents: %w: see %s", context.Cause(ctx), filepath.Join(dir, "specproxy-*.log"))
		}
		revision = resp.Msg.GetRevision()
	}
}

// startEnvoy gives both versions weight and waits until a request comes through.
func (f *fleet) startEnvoy(ctx context.Context, o Options, dir string) (err error) {
	deploy := &operatorv1.DeployRequest{Refs: []*operatorv1.Ref{{Spec: spec, Version: versionsOfSpec[0]}}, Reason: "benchmark"}
	if _, err := f.control.API.Deploy(ctx, connect.NewRequest(deploy)); err != nil {
		return fmt.Errorf("deploy %s: %w", spec, err)
	}
	if err := f.setWeights(ctx, 0); err != nil {
		return err
	}
	if f.wire, err = rig.NewRelay(ctx, f.control.GRPC); err != nil {
		return err
	}
	f.stack.Push(f.wire.Stop)
	envoy, err := rig.StartEnvoy(ctx, dir, "envoy", o.Xds, f.wire.Address())
	if err != nil {
		return err
	}
	f.stack.Push(envoy.Stop)
	address, err := envoy.Listener(ctx)
	if err != nil {
		return err
	}
	f.probe = newProbe(address, spec+".agents")
	f.stack.Push(f.probe.stop)
	return f.probe.settle(ctx, versionsOfSpec[f.at])
}

// setWeights gives almost all weight to one of the versions.
func (f *fleet) setWeights(ctx context.Context, to int) error {
	req := &operatorv1.SetWeightsRequest{Spec: spec, Reason: "benchmark", Weights: []*operatorv1.Weight{
		{Version: versionsOfSpec[to], BasisPoints: almost},
		{Version: versionsOfSpec[1-to], BasisPoints: full - almost},
	}}
	if _, err := f.control.API.SetWeights(ctx, connect.NewRequest(req)); err != nil {
		return fmt.Errorf("give %s:%s %d of %d: %w", spec, versionsOfSpec[to], almost, full, err)
	}
	return nil
}
