// Package archive measures what a page of a list and a deploy cost when there are ten thousand versions and specs, against few.
//
// Invariants: all control planes run side by side and are asked in turns, so what slows the machine down slows all; an answer that is not the
// page that was asked for fails the benchmark.
package archive

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	"github.com/specproxy/specproxy/bench/rig"
	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

const (
	// few and many are the sizes of the lists, one that of the fleet that deploys are compared with.
	one  = 1
	few  = 1_000
	many = 10_000
	// rounds of lists: one page of each kind from each plane. deploys in each plane.
	rounds  = 60
	deploys = 40
	// limit bounds the measurement, after everything runs.
	limit = 5 * time.Minute
)

// Options says what to measure.
type Options struct {
	// Xds is the program.
	Xds string
	// Dir is where it works.
	Dir string
	// Progress is told in words.
	Progress io.Writer
}

// Sample is one call.
type Sample struct {
	// Op is "deploy" or the page that was listed, such as "versions/last".
	Op string `json:"op"`
	// Size is how many specs there are, and how many versions the spec has that was asked about or deployed.
	Size int `json:"size"`
	// Turn numbers the rounds, from 0.
	Turn int `json:"turn"`
	// Ms is what the caller waited.
	Ms float64 `json:"ms"`
}

// plane is one control plane with its size.
type plane struct {
	*rig.Control
	size     int
	versions []string // of the spec with many, oldest first
	pages    []page
}

// Run starts the control planes and measures them in turns.
func Run(ctx context.Context, o Options) (_ []Sample, err error) {
	var stack rig.Stack
	defer stack.Stop()
	planes := map[int]*plane{}
	for _, size := range []int{one, few, many} {
		fmt.Fprintf(o.Progress, "archive: starting a control plane with %d specs and a spec of %d versions\n", size, size)
		p, err := start(ctx, o, size)
		if err != nil {
			return nil, err
		}
		stack.Push(p.Stop)
		planes[size] = p
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the measurement took longer than %s", limit))
	defer cancel()
	for _, size := range []int{few, many} {
		if planes[size].pages, err = pagesOf(ctx, planes[size]); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(o.Progress, "archive: listing %d pages and deploying %d times\n", rounds*len(planes[few].pages)*2, deploys*2)
	samples, err := list(ctx, planes[few], planes[many])
	if err != nil {
		return nil, err
	}
	more, err := deploy(ctx, planes[one], planes[many])
	return append(samples, more...), err
}

func start(ctx context.Context, o Options, size int) (*plane, error) {
	name := fmt.Sprintf("xds-%d", size)
	all, err := seed(ctx, filepath.Join(o.Dir, name+".data"), size)
	if err != nil {
		return nil, err
	}
	c, err := rig.StartControl(ctx, o.Dir, name, o.Xds)
	if err != nil {
		return nil, err
	}
	return &plane{Control: c, size: size, versions: all}, nil
}

// list asks every plane for each page once in each turn; the order within a turn alternates.
func list(ctx context.Context, planes ...*plane) ([]Sample, error) {
	var samples []Sample
	for turn := range rounds {
		for kind := range planes[0].pages {
			for i := range planes {
				p := planes[(i+turn)%len(planes)]
				began := time.Now()
				n, err := p.pages[kind].read(ctx, p)
				took := time.Since(began)
				if err != nil {
					return nil, fmt.Errorf("%s of %d: %w", p.pages[kind].op, p.size, err)
				}
				if n != pageSize {
					return nil, fmt.Errorf("%s of %d has %d items, want %d", p.pages[kind].op, p.size, n, pageSize)
				}
				samples = append(samples, Sample{Op: p.pages[kind].op, Size: p.size, Turn: turn, Ms: milliseconds(took)})
			}
		}
	}
	return samples, nil
}

// deploy moves the spec of each plane to its next version, in turns. The plane with one version gets each just before it is deployed.
func deploy(ctx context.Context, small, large *plane) ([]Sample, error) {
	var samples []Sample
	for turn := range deploys {
		for i := range 2 {
			p := []*plane{small, large}[(i+turn)%2]
			version := versionOf(current(p.size) + turn + 1)
			if p == small {
				if err := publish(ctx, p, version); err != nil {
					return nil, err
				}
			}
			request := connect.NewRequest(&operatorv1.DeployRequest{Refs: []*operatorv1.Ref{{Spec: bigSpec, Version: version}}, Now: true})
			began := time.Now()
			response, err := p.API.Deploy(ctx, request)
			took := time.Since(began)
			if err != nil {
				return nil, fmt.Errorf("deploy %d of %d: %w", turn, p.size, err)
			}
			if c := response.Msg.GetChanges(); len(c) != 1 || c[0].GetAlreadyDone() || c[0].GetKind() != "deploy" {
				return nil, fmt.Errorf("deploy %d of %d was none: %v", turn, p.size, c)
			}
			samples = append(samples, Sample{Op: deployOp, Size: p.size, Turn: turn, Ms: milliseconds(took)})
		}
	}
	return samples, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
