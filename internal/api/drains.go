package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

func (s *Server) PreviewDrain(context.Context, *connect.Request[operatorv1.PreviewDrainRequest]) (*connect.Response[operatorv1.PreviewDrainResponse], error) {
	return nil, connect.NewError(connect.CodeUnimplemented, errors.New("soon"))
}

func (s *Server) ListDrains(context.Context, *connect.Request[operatorv1.ListDrainsRequest]) (*connect.Response[operatorv1.ListDrainsResponse], error) {
	return nil, connect.NewError(connect.CodeUnimplemented, errors.New("soon"))
}

func (s *Server) SettleExecution(context.Context, *connect.Request[operatorv1.SettleExecutionRequest]) (*connect.Response[operatorv1.SettleExecutionResponse], error) {
	return nil, connect.NewError(connect.CodeUnimplemented, errors.New("soon"))
}
