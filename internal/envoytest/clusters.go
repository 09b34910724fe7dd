package envoytest

import (
	"context"
	"encoding/json"
	"net"
	"slices"
	"strconv"
)

// Clusters are the clusters that this Envoy has, and the addresses of their hosts, host:port, sorted.
func (e *Envoy) Clusters(ctx context.Context) (map[string][]string, error) {
	raw, err := e.Get(ctx, "/clusters?format=json")
	if err != nil {
		return nil, err
	}
	var all struct {
		Clusters []struct {
			Name  string `json:"name"`
			Hosts []struct {
				Address struct {
					Socket struct {
						Address string `json:"address"`
						Port    int    `json:"port_value"`
					} `json:"socket_address"`
				} `json:"address"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	out := make(map[string][]string, len(all.Clusters))
	for _, c := range all.Clusters {
		out[c.Name] = nil
		for _, h := range c.Hosts {
			out[c.Name] = append(out[c.Name], net.JoinHostPort(h.Address.Socket.Address, strconv.Itoa(h.Address.Socket.Port)))
		}
		slices.Sort(out[c.Name])
	}
	return out, nil
}
