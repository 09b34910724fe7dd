package api

import (
	"context"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/routing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// Resolve says which version a reference means, and why.
func (s *Server) Resolve(_ context.Context, req *connect.Request[operatorv1.ResolveRequest]) (*connect.Response[operatorv1.ResolveResponse], error) {
	view := s.Store.View()
	name, reference := req.Msg.GetSpec(), req.Msg.GetReference()
	var record versions.Record
	var why string
	var err error
	if name == "" {
		record, why, err = anySpec(view, reference)
		if err != nil {
			return nil, &control.NotFound{Refused: control.Refused{Why: err.Error(), Next: "specctl   (shows every spec)"}}
		}
	} else {
		if err := exists(view, name); err != nil {
			return nil, err
		}
		record, why, err = routing.Resolve(reference, view.Versions(name), view.History(name))
		if err != nil {
			return nil, &control.NotFound{Refused: control.Refused{Why: fmt.Sprintf("%s:%s: %v", name, reference, err), Next: "specctl versions " + name}}
		}
	}
	return connect.NewResponse(&operatorv1.ResolveResponse{Spec: record.Spec, Version: record.Version, Digest: record.Digest, Reason: why}), nil
}

// anySpec finds a digest among all specs.
func anySpec(view *store.View, reference string) (versions.Record, string, error) {
	if !strings.HasPrefix(reference, "sha256:") {
		return versions.Record{}, "", fmt.Errorf("%q names no spec: write NAME:VERSION, or @sha256:…", reference)
	}
	var all []versions.Record
	for _, spec := range view.Specs() {
		all = append(all, view.Versions(spec)...)
	}
	return routing.Resolve(reference, all, nil)
}
