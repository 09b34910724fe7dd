package api

import (
	"fmt"

	"connectrpc.com/connect"

	"github.com/specproxy/specproxy/internal/versions"
)

// A page has pageSize items unless the caller wants another number, up to maxPage.
const (
	pageSize = 100
	maxPage  = 1000
)

// sizeOf is how many items the caller wants on a page.
func sizeOf(asked uint32) (int, error) {
	switch {
	case asked == 0:
		return pageSize, nil
	case asked > maxPage:
		return 0, invalid(fmt.Sprintf("a page of %d is too long: at most %d; go on with next_page_token", asked, maxPage))
	}
	return int(asked), nil
}

// refToken is where a page by name:version begins.
func refToken(token string) (versions.Ref, error) {
	if token == "" {
		return versions.Ref{}, nil
	}
	ref, err := versions.ParseRef(token)
	if err != nil {
		return ref, badToken(token)
	}
	return ref, nil
}

func badToken(token string) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("page token %q is none of ours: begin again without one", token))
}

// tokenOf is empty where there is nothing to go on with.
func tokenOf(ref versions.Ref) string {
	if ref == (versions.Ref{}) {
		return ""
	}
	return ref.String()
}
