package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// VerifyArchive reads versions from the archive and says which are not what their records name.
func (s *Server) VerifyArchive(context.Context, *connect.Request[operatorv1.VerifyArchiveRequest]) (*connect.Response[operatorv1.VerifyArchiveResponse], error) {
	return nil, connect.NewError(connect.CodeUnimplemented, errors.New("not served yet"))
}

// ImportArchive makes records of what the archive holds and no record names.
func (s *Server) ImportArchive(context.Context, *connect.Request[operatorv1.ImportArchiveRequest]) (*connect.Response[operatorv1.ImportArchiveResponse], error) {
	return nil, connect.NewError(connect.CodeUnimplemented, errors.New("not served yet"))
}
