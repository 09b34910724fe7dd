package grpc_test

import (
	"encoding/base64"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/specproxy/specproxy/internal/agentproto"
	"github.com/specproxy/specproxy/internal/agentproto/grpc"
	"github.com/specproxy/specproxy/internal/drain"
)

func TestIsContentType(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc;x=y": true,
		"application/grpc-web": false, "application/grpc-web+proto": false, "application/json": false, "": false,
	} {
		if got := grpc.IsContentType(contentType); got != want {
			t.Errorf("%q: %v", contentType, got)
		}
	}
}

func TestCode(t *testing.T) {
	for _, c := range []struct {
		reached bool
		effects drain.Effects
		want    codes.Code
	}{
		{false, drain.EffectsNone, codes.Unavailable},
		{true, drain.EffectsNone, codes.Aborted},
		{true, drain.EffectsUnknown, codes.Aborted},
		{true, drain.EffectsCompensable, codes.FailedPrecondition},
		{true, drain.EffectsIrreversible, codes.FailedPrecondition},
	} {
		if got := grpc.Code(agentproto.Signal{Reached: c.reached, Effects: c.effects}); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func details(t *testing.T, encoded string) (*errdetails.ErrorInfo, *errdetails.RetryInfo) {
	t.Helper()
	data, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil {
		t.Fatal(err)
	}
	var st spb.Status
	if err := proto.Unmarshal(data, &st); err != nil {
		t.Fatal(err)
	}
	var info *errdetails.ErrorInfo
	var retry *errdetails.RetryInfo
	for _, d := range st.GetDetails() {
		m, err := d.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *errdetails.ErrorInfo:
			info = m
		case *errdetails.RetryInfo:
			retry = m
		}
	}
	return info, retry
}

func TestTrailers(t *testing.T) {
	s := agentproto.Signal{Spec: "customer-service", From: "2.1.0", To: "2.0.3", Execution: "x1", Effects: drain.EffectsNone, Reached: true, RetryAfter: 300 * time.Millisecond}
	h := grpc.Trailers(s)
	info, retry := details(t, h.Get("Grpc-Status-Details-Bin"))
	if h.Get("Grpc-Status") != "10" || h.Get("Grpc-Retry-Pushback-Ms") != "300" || h.Get("X-Spec-Rollback") != "from=2.1.0, to=2.0.3, effects=none" {
		t.Errorf("got %v", h)
	}
	if info.GetReason() != "SPEC_VERSION_ROLLED_BACK" || info.GetDomain() != "specproxy" || info.GetMetadata()["to"] != "2.0.3" || info.GetMetadata()["execution"] != "x1" {
		t.Errorf("error info %v", info)
	}
	if retry.GetRetryDelay().AsDuration() != 300*time.Millisecond {
		t.Errorf("retry info %v", retry)
	}

	s.Effects = drain.EffectsIrreversible
	h = grpc.Trailers(s)
	if _, retry := details(t, h.Get("Grpc-Status-Details-Bin")); retry != nil || h.Get("Grpc-Retry-Pushback-Ms") != "-1" || h.Get("Grpc-Status") != "9" {
		t.Errorf("a repeat is not forbidden: %v %v", h, retry)
	}
}

func TestMessageIsPercentEncoded(t *testing.T) {
	if got := grpc.Status(codes.Unavailable, "50 % ü\n").Get("Grpc-Message"); got != "50 %25 %C3%BC%0A" {
		t.Errorf("got %q", got)
	}
}
