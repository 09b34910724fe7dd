package specdir_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"

	sidecarv1 "github.com/specproxy/specproxy/gen/specproxy/sidecar/v1"
	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/sidecar/fakecontrol"
	"github.com/specproxy/specproxy/internal/sidecar/session"
	"github.com/specproxy/specproxy/internal/sidecar/specdir"
	"github.com/specproxy/specproxy/internal/versions"
)

const manifest = `name: customer-service
version: 2.0.3
documents: [a/b.md]
inFlight: {default: {onRollback: complete}}
`

func pack(t *testing.T, text string) versions.Packed {
	t.Helper()
	p, err := versions.Pack(map[string][]byte{"spec.yaml": []byte(manifest), "a/b.md": []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func source(t *testing.T, replicas ...specdir.Replica) specdir.Source {
	t.Helper()
	a, err := archive.Open(t.TempDir(), zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	return specdir.Source{Replicas: replicas, Copy: a, Patience: 100 * time.Millisecond, Log: zaptest.NewLogger(t)}
}

func replicas(t *testing.T, controls ...*fakecontrol.Control) []specdir.Replica {
	t.Helper()
	var all []specdir.Replica
	for _, c := range controls {
		dialed, err := session.Dialing{MaxBackoff: 50 * time.Millisecond}.Dial([]string{c.Address()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = dialed[0].Close() })
		all = append(all, specdir.Replica{Address: c.Address(), Client: dialed[0].Client()})
	}
	return all
}

// What the control plane calls the version today is what counts, not what this machine knew it as.
func TestTheControlPlaneSaysWhichDigestAVersionHas(t *testing.T) {
	first, second := fakecontrol.Start(t), fakecontrol.Start(t)
	old := first.Publish(map[string]string{"spec.yaml": manifest, "a/b.md": "old"})
	next := second.Publish(map[string]string{"spec.yaml": manifest, "a/b.md": "new"})
	s := source(t, replicas(t, first)...)
	if p, err := s.Obtain(t.Context(), old.Ref()); err != nil || p.Digest != old.Digest {
		t.Fatalf("%s, %v", p.Digest, err)
	}
	s.Replicas = replicas(t, second) // a cluster that was set up anew
	if p, err := s.Obtain(t.Context(), old.Ref()); err != nil || p.Digest != next.Digest {
		t.Fatalf("%s, %v", p.Digest, err)
	}
	second.Stop()
	if p, err := s.Obtain(t.Context(), old.Ref()); err != nil || p.Digest != next.Digest {
		t.Errorf("the copy is %s, %v", p.Digest, err)
	}
}

func TestOneWholeReplicaIsEnough(t *testing.T) {
	away, damaged, whole := fakecontrol.Start(t), fakecontrol.Start(t), fakecontrol.Start(t)
	files := map[string]string{"spec.yaml": manifest, "a/b.md": "text"}
	damaged.Publish(files)
	want := whole.Publish(files)
	away.Stop()
	damaged.Damage("a/b.md", func(b []byte) []byte { return b[:1] })
	if p, err := source(t, replicas(t, away, damaged, whole)...).Obtain(t.Context(), want.Ref()); err != nil || p.Digest != want.Digest {
		t.Errorf("%s, %v", p.Digest, err)
	}
}

// script is a replica that sends what it is told.
type script struct {
	sidecarv1.SidecarServiceClient
	grpc.ServerStreamingClient[sidecarv1.PullResponse]
	chunks []*sidecarv1.PullResponse
}

func (s *script) Pull(context.Context, *sidecarv1.PullRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[sidecarv1.PullResponse], error) {
	return s, nil
}

func (s *script) Recv() (*sidecarv1.PullResponse, error) {
	if len(s.chunks) == 0 {
		return nil, os.ErrClosed
	}
	c := s.chunks[0]
	s.chunks = s.chunks[1:]
	return c, nil
}

func TestNonsenseFromAReplica(t *testing.T) {
	p := pack(t, "text")
	image := &sidecarv1.PullResponse{Digest: p.Digest, Path: "manifest", Data: p.ManifestBytes, Last: true}
	huge := make([]byte, versions.MaxVersionSize/2+1)
	for name, chunks := range map[string][]*sidecarv1.PullResponse{
		"nothing":               nil,
		"a document first":      {{Digest: p.Blobs[0].Digest, Path: "spec.yaml", Data: p.Blobs[0].Data, Last: true}},
		"mixed chunks":          {{Digest: p.Digest, Path: "manifest", Data: p.ManifestBytes[:10]}, {Digest: p.Blobs[0].Digest, Path: "spec.yaml", Last: true}},
		"a manifest of another": {{Digest: pack(t, "other").Digest, Path: "manifest", Data: p.ManifestBytes, Last: true}},
		"documents missing":     {image},
		"too much":              {image, {Digest: "a", Data: huge, Last: true}, {Digest: "b", Data: huge, Last: true}},
	} {
		s := source(t, specdir.Replica{Address: "r:1", Client: &script{chunks: chunks}})
		if got, err := s.Obtain(t.Context(), p.Ref()); err == nil || !strings.Contains(err.Error(), "r:1") {
			t.Errorf("%s: %s, %v", name, got.Digest, err)
		}
		if _, err := s.Copy.Resolve(t.Context(), p.Ref()); err == nil {
			t.Errorf("%s: something was kept", name)
		}
	}
}

func TestWriteReplacesWhatACrashLeft(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spec")
	for _, text := range []string{"one", "two"} { // nothing removed the first
		if err := specdir.Write(dir, pack(t, text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "a", "b.md")); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "a")); err != nil || info.Mode().Perm() != 0o555 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for range 2 {
		if err := specdir.Remove(dir); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
}
