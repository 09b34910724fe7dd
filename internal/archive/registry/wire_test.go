package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/archive"
	"github.com/specproxy/specproxy/internal/registrytest"
	"github.com/specproxy/specproxy/internal/versions"
)

// Whatever reaches us of whichever blob, Get returns the whole version or an error, keeps nothing of it, and serves the version once the wire
// is sound again.
func TestWrongBytesAreNeverServed(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	proxy := registrytest.StartProxy(t, r.Host)
	p, other := pack(t, "1.0.0", "be kind"), pack(t, "1.1.0", "be brief")
	put(t, open(t, r.Host, 0), p, other)
	whole := map[string][]byte{p.Digest: p.ManifestBytes}
	digests := []string{p.Digest}
	for _, b := range p.Blobs {
		if len(b.Data) > 0 {
			whole[b.Digest] = b.Data
			digests = append(digests, b.Digest)
		}
	}
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		digest := rapid.SampledFrom(digests).Draw(t, "digest")
		good := whole[digest]
		cut := rapid.Bool().Draw(t, "cut")
		at := rapid.IntRange(0, len(good)-1).Draw(t, "at")
		proxy.Change(func(req *http.Request, body []byte) []byte {
			if path.Base(req.URL.Path) != digest {
				return nil
			}
			if cut {
				return body[:at]
			}
			bad := bytes.Clone(body)
			bad[at] ^= 0x20
			return bad
		})
		a := open(outer, proxy.Host, 0)
		got, err := a.Get(outer.Context(), p.Digest)
		var damaged *archive.Damaged
		var away *archive.Unreachable
		if err == nil || len(got.Blobs) > 0 || errors.Is(err, archive.ErrNotFound) {
			t.Fatalf("served %+v, %v", got, err)
		}
		if !cut && (!errors.As(err, &damaged) || damaged.Digest != digest) {
			t.Fatalf("a changed byte: %v", err)
		}
		if cut && !errors.As(err, &away) {
			t.Fatalf("a transfer that broke: %v", err)
		}
		if _, err := a.Check(outer.Context(), p.Ref(), p.Digest); err == nil {
			t.Fatal("a check found nothing")
		}
		checkHolds(outer, a, other)
		proxy.Change(nil)
		checkHolds(outer, a, p)
	})
}

// A registry that lies about a digest as a whole: another version's bytes under this one's name.
func TestAnotherVersionsBytesAreDamage(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	proxy := registrytest.StartProxy(t, r.Host)
	p, q := pack(t, "1.0.0", "be kind"), pack(t, "1.0.1", "be kind") // as long as each other
	put(t, open(t, r.Host, 0), p, q)
	proxy.Change(func(req *http.Request, _ []byte) []byte {
		if path.Base(req.URL.Path) == p.Digest {
			return q.ManifestBytes
		}
		return nil
	})
	var damaged *archive.Damaged
	if _, err := open(t, proxy.Host, 0).Get(t.Context(), p.Digest); !errors.As(err, &damaged) || damaged.Got != q.Digest {
		t.Errorf("got %v", err)
	}
}

// The registry's own disk is damaged: it serves what it has, and does not take the bytes again that it believes to have.
func TestDamageInTheRegistryIsSeenByCheckAndByPut(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	a, p := open(t, r.Host, 0), pack(t, "1.0.0", "be kind")
	put(t, a, p)
	overwrite(t, r.Blob(p.Blobs[2].Digest), []byte("be vile"))
	var damaged *archive.Damaged
	if _, err := a.Check(t.Context(), p.Ref(), p.Digest); !errors.As(err, &damaged) || damaged.Path != "prompt.md" {
		t.Errorf("check: %v", err)
	}
	if err := open(t, r.Host, 0).Put(t.Context(), p); !errors.As(err, &damaged) || !strings.Contains(err.Error(), "does not come back") {
		t.Errorf("put: %v", err)
	}
	checkHolds(t, a, p) // from this replica's copy
	if _, err := open(t, r.Host, 0).Get(t.Context(), p.Digest); !errors.As(err, &damaged) {
		t.Errorf("get on a replica without a copy: %v", err)
	}
}

const patience = 150 * time.Millisecond

func TestSilenceIsGivenUpOn(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	p := pack(t, "1.0.0", "be kind")
	put(t, open(t, r.Host, 0), p)

	mute, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections, nobody answers them
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	proxy := registrytest.StartProxy(t, r.Host)
	proxy.Before(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/blobs/") {
			return false
		}
		w.Header().Set("Content-Length", "7") // the beginning of an answer, and no more
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
		return true
	})
	for what, host := range map[string]string{"before the answer": mute.Addr().String(), "within the answer": proxy.Host} {
		var away *archive.Unreachable
		began := time.Now()
		_, err := open(t, host, patience).Get(t.Context(), p.Digest)
		if !errors.As(err, &away) || !strings.Contains(err.Error(), "said nothing") {
			t.Errorf("silence %s: %v", what, err)
		}
		if took := time.Since(began); took < patience || took > 20*patience {
			t.Errorf("silence %s was given up on after %s, the patience is %s", what, took, patience)
		}
	}
}

func TestSlownessIsNot(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	p := pack(t, "1.0.0", strings.Repeat("be kind. ", 10))
	put(t, open(t, r.Host, 0), p)
	proxy := registrytest.StartProxy(t, r.Host)
	proxy.Before(func(w http.ResponseWriter, req *http.Request) bool {
		data, ok := p.File("prompt.md")
		if !ok || path.Base(req.URL.Path) != versions.DigestOf(data) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		tick := time.NewTicker(patience / 5)
		defer tick.Stop()
		for chunk := range bytes.SplitAfterSeq(data, []byte(" ")) {
			<-tick.C
			if _, err := w.Write(chunk); err != nil {
				return true
			}
			_ = http.NewResponseController(w).Flush()
		}
		return true
	})
	began := time.Now()
	checkHolds(t, open(t, proxy.Host, patience), p)
	if took := time.Since(began); took < 2*patience {
		t.Errorf("the transfer took %s, which shows nothing of a patience of %s", took, patience)
	}
}
