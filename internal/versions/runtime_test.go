package versions_test

import (
	"testing"

	"github.com/specproxy/specproxy/internal/versions"
)

func TestRuntimeMismatch(t *testing.T) {
	demand := versions.Runtime{Image: "sha256:aa", Model: "m-7", Tools: map[string]string{"refund.issue": "3", "order.find": "1"}}
	for _, c := range []struct {
		name             string
		demand, reported versions.Runtime
		want             string
	}{
		{name: "nothing demanded, anything reported", reported: demand},
		{name: "exactly what is demanded", demand: demand, reported: demand},
		{name: "more than is demanded", demand: versions.Runtime{Model: "m-7"}, reported: demand},
		{
			name: "another model", demand: versions.Runtime{Model: "m-7"}, reported: versions.Runtime{Model: "m-8"},
			want: `the manifest demands model "m-7", the instance reports "m-8"`,
		},
		{
			name: "binary not reported", demand: versions.Runtime{Binary: "sha256:bb"},
			want: `the manifest demands binary "sha256:bb", the instance reports none`,
		},
		{
			name: "several, tools in order", demand: demand, reported: versions.Runtime{Image: "sha256:cc", Model: "m-7", Tools: map[string]string{"refund.issue": "4"}},
			want: `the manifest demands image "sha256:aa", the instance reports "sha256:cc"; ` +
				`the manifest demands tool order.find "1", the instance reports none; ` +
				`the manifest demands tool refund.issue "3", the instance reports "4"`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.demand.Mismatch(c.reported); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
