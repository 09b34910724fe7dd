package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

var errSoon = connect.NewError(connect.CodeUnimplemented, errors.New("this control plane does not answer that yet"))

// Resolve follows.
func (s *Server) Resolve(context.Context, *connect.Request[operatorv1.ResolveRequest]) (*connect.Response[operatorv1.ResolveResponse], error) {
	return nil, errSoon
}

// GetVersion follows.
func (s *Server) GetVersion(context.Context, *connect.Request[operatorv1.GetVersionRequest]) (*connect.Response[operatorv1.GetVersionResponse], error) {
	return nil, errSoon
}

// ImportVersion follows.
func (s *Server) ImportVersion(context.Context, *connect.Request[operatorv1.ImportVersionRequest]) (*connect.Response[operatorv1.ImportVersionResponse], error) {
	return nil, errSoon
}

// Attach follows.
func (s *Server) Attach(context.Context, *connect.Request[operatorv1.AttachRequest]) (*connect.Response[operatorv1.AttachResponse], error) {
	return nil, errSoon
}

// GetLineage follows.
func (s *Server) GetLineage(context.Context, *connect.Request[operatorv1.GetLineageRequest]) (*connect.Response[operatorv1.GetLineageResponse], error) {
	return nil, errSoon
}

// GetPolicy follows.
func (s *Server) GetPolicy(context.Context, *connect.Request[operatorv1.GetPolicyRequest]) (*connect.Response[operatorv1.GetPolicyResponse], error) {
	return nil, errSoon
}

// SetPolicy follows.
func (s *Server) SetPolicy(context.Context, *connect.Request[operatorv1.SetPolicyRequest]) (*connect.Response[operatorv1.SetPolicyResponse], error) {
	return nil, errSoon
}
