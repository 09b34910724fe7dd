package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/signing"
	"github.com/specproxy/specproxy/internal/store"
	"github.com/specproxy/specproxy/internal/versions"
)

// GetVersion returns one version's record, and what it is made of and what is attached to it as far as asked.
func (s *Server) GetVersion(ctx context.Context, req *connect.Request[operatorv1.GetVersionRequest]) (*connect.Response[operatorv1.GetVersionResponse], error) {
	view := s.Store.View()
	record, err := published(view, req.Msg.GetSpec(), req.Msg.GetVersion())
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(record.Manifest)
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", record.Ref(), err)
	}
	out := &operatorv1.GetVersionResponse{
		Version: s.recordOf(view, record), Parents: record.Manifest.Parents, Fixes: record.Manifest.Fixes, Description: record.Manifest.Description,
		FirstGeneration: record.FirstWeight, ManifestJson: string(manifest),
	}
	if req.Msg.GetContent() {
		packed, err := s.Control.Content(ctx, record)
		if err != nil {
			return nil, err
		}
		out.Image = packed.ManifestBytes
		for _, b := range packed.Blobs {
			out.Files = append(out.Files, &operatorv1.File{Path: b.Path, Content: b.Data})
		}
	}
	attachments, err := s.Control.Attached(ctx, record)
	if err != nil { // the version itself can be read
		out.AttachmentsUnread = err.Error()
	}
	for _, at := range attachments {
		out.Attachments = append(out.Attachments, attachmentOf(at, req.Msg.GetAttachmentContent()))
	}
	if why := s.Control.Permitted(ctx, record); why != nil {
		out.PolicyRefusal, _, _ = strings.Cut(why.Error(), "\n")
	}
	return connect.NewResponse(out), nil
}

func (s *Server) recordOf(view *store.View, r versions.Record) *operatorv1.Version {
	route, _ := view.Route(r.Spec)
	return &operatorv1.Version{
		Spec: r.Spec, Version: r.Version, Digest: r.Digest, Standing: string(r.Standing), StandingReason: r.StandingReason, PublishedAt: stamp(r.PublishedAt),
		PublishedBy: r.PublishedBy, Weight: route.Weight(r.Version), Postmortem: r.PostMortem,
		Pool: poolOf(s.Fleet.Pool(view, r.Spec, r.Version), fenced(view, r.Spec, r.Version)),
	}
}

func published(view *store.View, spec, version string) (versions.Record, error) {
	if err := exists(view, spec); err != nil {
		return versions.Record{}, err
	}
	record, ok := view.Version(spec, version)
	if !ok {
		return record, &control.NotFound{Refused: control.Refused{Why: "version " + version + " of " + spec + " is not published", Next: "specctl versions " + spec}}
	}
	return record, nil
}

func attachmentOf(at versions.Attachment, content bool) *operatorv1.Attachment {
	out := &operatorv1.Attachment{
		Digest: at.Digest, ArtifactType: at.Type, MediaType: at.MediaType, AttachedBy: at.By, AttachedAt: stamp(at.At), Size: uint64(len(at.Data)),
	}
	if content {
		out.Content, out.Image = at.Data, at.Image
	}
	switch at.Type {
	case versions.TypeSignature:
		out.KeyIds = signing.KeyIDs(at.Data)
	case versions.TypeConformance:
		out.Conformance = &operatorv1.ConformanceSummary{Suite: at.Title}
		if r, err := control.Report(at); err == nil {
			out.Conformance = &operatorv1.ConformanceSummary{
				Suite: r.Suite, Passed: r.Passed(), Tests: uint32(r.Tests), Failures: uint32(r.Failures), Skipped: uint32(r.Skipped), Failed: r.Failed,
			}
		}
	}
	return out
}

// ImportVersion stores a version in the form in which it travels.
func (s *Server) ImportVersion(ctx context.Context, req *connect.Request[operatorv1.ImportVersionRequest]) (*connect.Response[operatorv1.ImportVersionResponse], error) {
	files, err := filesOf(req.Msg.GetFiles())
	if err != nil {
		return nil, err
	}
	p, err := s.Control.ImportVersion(ctx, actor(ctx, req.Header(), false), req.Msg.GetImage(), files, req.Msg.GetDryRun())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.ImportVersionResponse{Spec: p.Record.Spec, Version: p.Record.Version, Digest: p.Record.Digest, Created: p.Created}), nil
}

func filesOf(list []*operatorv1.File) (map[string][]byte, error) {
	files := make(map[string][]byte, len(list))
	for _, f := range list {
		if _, twice := files[f.GetPath()]; twice {
			return nil, invalid("file " + f.GetPath() + " was sent twice")
		}
		files[f.GetPath()] = f.GetContent()
	}
	return files, nil
}

// Attach stores a signature or a test report beside a version.
func (s *Server) Attach(ctx context.Context, req *connect.Request[operatorv1.AttachRequest]) (*connect.Response[operatorv1.AttachResponse], error) {
	m := req.Msg
	at, created, err := s.Control.Attach(ctx, actor(ctx, req.Header(), false), control.Attach{
		Ref: versions.Ref{Spec: m.GetSpec(), Version: m.GetVersion()}, Digest: m.GetVersionDigest(), Type: m.GetArtifactType(),
		Data: m.GetContent(), Suite: m.GetSuite(), Image: m.GetImage(),
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operatorv1.AttachResponse{Attachment: attachmentOf(at, false), Created: created}), nil
}
