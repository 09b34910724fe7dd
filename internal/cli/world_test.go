package cli_test

import (
	"time"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// inTrouble is a fleet of one spec whose newest version fails a third of its work.
func inTrouble() *fakeControl {
	f := newFake()
	f.revision = 40
	f.spec = &operatorv1.Spec{
		Name: "customer-service", Generation: 5, ChangedAt: ago(130 * time.Second), ChangedBy: "bob@ci", LastChange: "weights 2.0.3=10 2.1.0=90",
		Hosts:   []string{"customer-service.agents"},
		Trouble: []string{"2.1.0 succeeds in 71.2% of its executions, 2.0.3 in 98.1%"},
		Next:    "specctl rollback customer-service",
		Exit:    "2.0.3", ExitReason: "newest good version",
		Versions: []*operatorv1.Version{
			{
				Spec: "customer-service", Version: "2.0.2", Digest: "sha256:0123456789abcdef0123456789abcdef", Standing: "good",
				PublishedAt: ago(72 * time.Hour), Pool: &operatorv1.Pool{RecentSuccess: -1},
			},
			{
				Spec: "customer-service", Version: "2.0.3", Digest: "sha256:1123456789abcdef0123456789abcdef", Standing: "good",
				StandingReason: "held all the weight and was replaced by 2.1.0", PublishedAt: ago(26 * time.Hour), Weight: 1000,
				Pool: &operatorv1.Pool{Ready: 2, Instances: 2, InFlight: 4, Succeeded: 1040, Failed: 20, Rate: 4.1, RecentSucceeded: 52, RecentFailed: 1},
			},
			{
				Spec: "customer-service", Version: "2.1.0", Digest: "sha256:2123456789abcdef0123456789abcdef", Standing: "candidate",
				PublishedAt: ago(time.Hour), Weight: 9000,
				Pool: &operatorv1.Pool{Ready: 2, Instances: 3, Silent: 1, InFlight: 17, Rate: 37.4, RecentSucceeded: 242, RecentFailed: 98},
			},
		},
	}
	f.history = []*operatorv1.Change{
		{
			Spec: "customer-service", Generation: 5, Kind: "weights", CommittedAt: ago(130 * time.Second), Actor: "bob@ci",
			After: []*operatorv1.Weight{{Version: "2.0.3", BasisPoints: 1000}, {Version: "2.1.0", BasisPoints: 9000}},
		},
		{
			Spec: "customer-service", Generation: 4, Kind: "deploy", CommittedAt: ago(30 * time.Hour), Actor: "ada@laptop",
			After: []*operatorv1.Weight{{Version: "2.0.3", BasisPoints: 10000}},
		},
	}
	f.executions = []*operatorv1.Execution{
		{Id: "x-1", Key: "order-1", Version: "2.1.0", Instance: "i-1", Method: "POST", Path: "/refunds", StartedAt: ago(4 * time.Second), Effects: "none", RouteGeneration: 5},
		{Id: "x-2", Version: "2.1.0", Instance: "i-2", Method: "GET", Path: "/stream", StartedAt: ago(9 * time.Second), Effects: "irreversible", Disposition: "complete", Why: "rule 2 (effects=irreversible): complete within 15m, then hold", RouteGeneration: 5},
		{
			Id: "x-3", Key: "order,3", Version: "2.1.0", Instance: "i-1", Method: "POST", Path: "/refunds", StartedAt: ago(60 * time.Second), EndedAt: ago(58 * time.Second),
			Effects: "readonly", Outcome: "failure", Reason: "limit \x1b[31mexceeded\nagain", Status: 200, RouteGeneration: 5,
		},
		{Id: "x-4", Key: "order-4", Version: "2.1.0", Method: "POST", Path: "/refunds", Outcome: "failure", Disposition: "cancel", Status: 503},
		{Id: "x-5", Key: "order-4", Version: "2.0.3", Method: "POST", Path: "/refunds", StartedAt: ago(0)},
		{Id: "x-6", Key: "order-6", Version: "2.1.0", Method: "POST", Path: "/refunds", Disposition: "cancel"},
	}
	f.proxies = []*operatorv1.Proxy{
		{Node: "edge-1", Version: "1.40.0", Connected: true, LastSeen: ago(0), Specs: []*operatorv1.ProxySpec{{Spec: "customer-service", AckedGeneration: 5}}},
		{Node: "edge-2", Version: "1.36.4", LastSeen: ago(95 * time.Second), Specs: []*operatorv1.ProxySpec{
			{Spec: "a", AckedGeneration: 1}, {Spec: "b", AckedGeneration: 2}, {Spec: "c", AckedGeneration: 3},
			{Spec: "customer-service", AckedGeneration: 4}, {Spec: "e", AckedGeneration: 5},
		}, Refusal: "unknown cluster"},
	}
	return f
}
