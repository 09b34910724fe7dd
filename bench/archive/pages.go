package archive

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// pageSize is the one of every list.
const pageSize = 100

// page is one that is asked for again and again.
type page struct {
	op   string
	read func(ctx context.Context, p *plane) (items int, err error)
}

// pagesOf finds the first, the middle and the last page of the versions of one spec and of the fleet, and filtered ones. Finding them walks
// through all pages once, which also warms up what a control plane prepares for its first caller.
func pagesOf(ctx context.Context, p *plane) ([]page, error) {
	versions := func(change func(*operatorv1.ListVersionsRequest)) func(context.Context, *plane) (int, error) {
		return func(ctx context.Context, p *plane) (int, error) {
			list, err := p.listVersions(ctx, change)
			return len(list.GetVersions()), err
		}
	}
	fleet := func(change func(*operatorv1.GetFleetRequest)) func(context.Context, *plane) (int, error) {
		return func(ctx context.Context, p *plane) (int, error) {
			list, err := p.listFleet(ctx, change)
			return len(list.GetSpecs()), err
		}
	}
	ofVersions, err := p.tokens(func(token string) (string, error) {
		list, err := p.listVersions(ctx, func(r *operatorv1.ListVersionsRequest) { r.PageToken = token })
		return list.GetNextPageToken(), err
	})
	if err != nil {
		return nil, err
	}
	ofFleet, err := p.tokens(func(token string) (string, error) {
		list, err := p.listFleet(ctx, func(r *operatorv1.GetFleetRequest) { r.PageToken = token })
		return list.GetNextPageToken(), err
	})
	if err != nil {
		return nil, err
	}
	// The fleet's last page holds one spec alone, the one of many versions beside so many others: the one before it is full.
	lastFleet := ofFleet[len(ofFleet)-2]
	return []page{
		{"versions/first", versions(func(*operatorv1.ListVersionsRequest) {})},
		{"versions/middle", versions(func(r *operatorv1.ListVersionsRequest) { r.PageToken = ofVersions[len(ofVersions)/2] })},
		{"versions/last", versions(func(r *operatorv1.ListVersionsRequest) { r.PageToken = ofVersions[len(ofVersions)-1] })},
		{"versions/prefix", versions(func(r *operatorv1.ListVersionsRequest) { r.Prefix = "0" })},
		{"versions/standing", versions(func(r *operatorv1.ListVersionsRequest) { r.Standing = "good" })},
		{"fleet/first", fleet(func(*operatorv1.GetFleetRequest) {})},
		{"fleet/middle", fleet(func(r *operatorv1.GetFleetRequest) { r.PageToken = ofFleet[len(ofFleet)/2] })},
		{"fleet/last", fleet(func(r *operatorv1.GetFleetRequest) { r.PageToken = lastFleet })},
		{"fleet/prefix", fleet(func(r *operatorv1.GetFleetRequest) { r.Prefix = "spec-00" })},
	}, nil
}

// tokens walks through a list and returns the tokens of its pages; the first is empty.
func (p *plane) tokens(next func(token string) (string, error)) ([]string, error) {
	all := []string{""}
	for {
		token, err := next(all[len(all)-1])
		if err != nil {
			return nil, err
		}
		if token == "" {
			return all, nil
		}
		if all = append(all, token); len(all) > 2*many/pageSize {
			return nil, fmt.Errorf("a list of %d has no end", p.size)
		}
	}
}

func (p *plane) listVersions(ctx context.Context, change func(*operatorv1.ListVersionsRequest)) (*operatorv1.ListVersionsResponse, error) {
	request := &operatorv1.ListVersionsRequest{Spec: bigSpec, PageSize: pageSize}
	change(request)
	response, err := p.API.ListVersions(ctx, connect.NewRequest(request))
	if err != nil {
		return nil, fmt.Errorf("list versions: %w", err)
	}
	return response.Msg, nil
}

func (p *plane) listFleet(ctx context.Context, change func(*operatorv1.GetFleetRequest)) (*operatorv1.GetFleetResponse, error) {
	request := &operatorv1.GetFleetRequest{PageSize: pageSize}
	change(request)
	response, err := p.API.GetFleet(ctx, connect.NewRequest(request))
	if err != nil {
		return nil, fmt.Errorf("list the fleet: %w", err)
	}
	return response.Msg, nil
}
