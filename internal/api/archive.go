package api

import (
	"context"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/versions"
)

// VerifyArchive reads versions from the archive and says which are not what their records name.
func (s *Server) VerifyArchive(ctx context.Context, req *connect.Request[operatorv1.VerifyArchiveRequest]) (*connect.Response[operatorv1.VerifyArchiveResponse], error) {
	m := req.Msg
	size, err := sizeOf(m.GetPageSize())
	if err != nil {
		return nil, err
	}
	after, err := refToken(m.GetPageToken())
	if err != nil {
		return nil, err
	}
	if m.GetVersion() != "" && m.GetSpec() == "" {
		return nil, invalid("a version was named without its spec")
	}
	checks, next, err := s.Control.VerifyArchive(ctx, versions.Ref{Spec: m.GetSpec(), Version: m.GetVersion()}, after, size)
	if err != nil {
		return nil, err
	}
	out := &operatorv1.VerifyArchiveResponse{NextPageToken: tokenOf(next), Archive: s.Control.Archive()}
	for _, c := range checks {
		out.Checks = append(out.Checks, &operatorv1.VersionCheck{
			Spec: c.Record.Spec, Version: c.Record.Version, Digest: c.Record.Digest, State: string(c.State), Reason: c.Reason, Next: c.Next,
			Documents: uint32(c.Documents), Bytes: uint64(c.Bytes),
		})
	}
	return connect.NewResponse(out), nil
}

// ImportArchive makes records of what the archive holds and no record names.
func (s *Server) ImportArchive(ctx context.Context, req *connect.Request[operatorv1.ImportArchiveRequest]) (*connect.Response[operatorv1.ImportArchiveResponse], error) {
	m := req.Msg
	size, err := sizeOf(m.GetPageSize())
	if err != nil {
		return nil, err
	}
	after, err := refToken(m.GetPageToken())
	if err != nil {
		return nil, err
	}
	choose := map[versions.Ref]string{}
	for _, c := range m.GetChoose() {
		name, digest, _ := strings.Cut(c, "@")
		ref, err := versions.ParseRef(name)
		if err != nil || !strings.HasPrefix(digest, "sha256:") {
			return nil, invalid(fmt.Sprintf("%q chooses nothing: write name:version@sha256:…", c))
		}
		choose[ref] = digest
	}
	imported, next, err := s.Control.ImportArchive(ctx, actor(ctx, req.Header(), false), after, size, choose, m.GetDryRun())
	if err != nil {
		return nil, err
	}
	out := &operatorv1.ImportArchiveResponse{NextPageToken: tokenOf(next), Archive: s.Control.Archive()}
	for _, i := range imported {
		out.Versions = append(out.Versions, &operatorv1.ImportedVersion{
			Spec: i.Ref.Spec, Version: i.Ref.Version, Digest: i.Digest, State: string(i.State), Reason: i.Reason, Next: i.Next, Digests: i.Digests,
		})
	}
	return connect.NewResponse(out), nil
}
