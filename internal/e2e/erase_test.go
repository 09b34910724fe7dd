package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// TestWhatIsErasedIsNowhere plants secrets in executions that fail, and looks for them everywhere they could have come to, before and after an
// erasure. What rules redact, headers, query strings, and bodies of a version that captures nothing never get anywhere.
func TestWhatIsErasedIsNowhere(t *testing.T) {
	const body, key = "planted-in-the-body", "planted-as-key"
	const field, matched, header, query, off = "planted-in-a-field", "hidden-by-a-pattern", "planted-in-a-header", "planted-in-the-query", "planted-where-capture-is-off"
	var told said
	receiver := httptest.NewServer(&told)
	t.Cleanup(receiver.Close)
	r := startReplicas(t)
	r.more = []string{"--webhooks", (&hooked{Server: receiver}).config(t)}
	r.add("a")
	w, etcd := r.all["a"], r.client()

	w.publish("shop", "2.0.0", guardedContract)
	w.publish("shop", "2.1.0", guardedContract, `capture: {request: 2048, response: 2048, redact: [{field: card.number}, {regex: 'hidden-[a-z-]+'}]}`)
	sidecars, kept := map[string]*process{}, t.TempDir()
	for _, x := range []struct{ version, key, reason, text string }{
		{"2.0.0", "of-another", "above the limit", off},
		{"2.1.0", key, "above the limit for " + matched, fmt.Sprintf(`{"note":%q,"card":{"number":%q},"text":"{\"more\":\"%s\"}"}`, body, field, matched)},
	} {
		d, address := startDesk(t, x.version), freeAddress(t)
		sidecars[x.version] = d.sidecar(w, "shop", "--listen", address, "--cache-dir", filepath.Join(kept, x.version))
		w.ready("shop", x.version, 1)
		w.deploy("shop", x.version)
		j := d.job("refused")
		c := request(t, address, "shop.agents", "refused?q="+query, x.text, "Content-Type", "application/json", "Idempotency-Key", x.key, "X-Note", header)
		j.begins()
		j.do(func(rw http.ResponseWriter) {
			rw.Header().Set("X-Spec-Outcome", `failure; reason="`+x.reason+`"`)
			rw.Header().Set("Content-Type", "text/plain")
		})
		j.finish()
		c.answer(http.StatusOK, x.text)
		w.counted("shop", x.version, 0, 1)
	}
	w.rollback("shop")
	recorded(t, w, "PM-1")
	w.closePostMortem("PM-1", "spec-error") // which gathers
	eventually(t, "webhook of the closing", func() error {
		if !strings.Contains(told.text(), "postmortem.closed") {
			return fmt.Errorf("told: %s", told.text())
		}
		return nil
	})

	// places are all that can be read.
	places := func() map[string]string {
		all := map[string]string{"xds's log": w.xds.log.String(), "webhooks": told.text(), "metrics": w.metrics(), "etcd": "", "etcd's history": ""}
		for version, p := range sidecars {
			all["the sidecar's log of "+version] = p.log.String()
		}
		for name, args := range map[string][]string{
			"show": {"postmortem", "show", "PM-1"}, "show as JSON": {"postmortem", "show", "PM-1", "-o", "json"}, "verify": {"postmortem", "verify"},
			"list": {"postmortem", "list", "-o", "json"}, "handover": {"handover", "shop", "--dry-run"}, "stats": {"stats", "-o", "json"}, "get": {"get", "shop", "-o", "json"},
			"executions": {"executions", "shop", "--on", "2.1.0", "--failed", "-o", "json"}, "effects": {"effects", "shop", "--on", "2.1.0", "-o", "json"},
		} {
			all[name] = w.ctl(0, nil, args...)
		}
		res, _ := w.visit("POST", "/dashboard/login", url.Values{"token": {w.adminToken()}}, nil)
		for _, page := range []string{"", "specs/shop", "postmortems", "postmortems/PM-1", "stats"} {
			_, all["the dashboard's /"+page] = w.visit("GET", "/dashboard/"+page, nil, res.Cookies()[0])
		}
		for place, dir := range map[string]string{"the sidecars' files": kept, "export": w.recomputed("PM-1")} { // every number is recomputed, too
			err := fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
				if err != nil || !entry.Type().IsRegular() {
					return err
				}
				content, err := os.ReadFile(filepath.Join(dir, name))
				all[place] += string(content)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		now, err := etcd.Get(t.Context(), "", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range now.Kvs {
			all["etcd"] += string(kv.Key) + string(kv.Value)
		}
		for rev := now.Header.GetRevision() - 1; rev > 0; rev-- {
			then, err := etcd.Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithRev(rev))
			if errors.Is(err, rpctypes.ErrCompacted) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, kv := range then.Kvs {
				if kv.ModRevision == rev {
					all["etcd's history"] += string(kv.Value)
				}
			}
		}
		return all
	}
	found := func(all map[string]string, text string, want ...string) {
		t.Helper()
		got := []string{}
		for place, content := range all {
			if strings.Contains(content, text) {
				got = append(got, place)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s is in %q, want %q", text, got, want)
		}
	}

	before := places()
	found(before, body, "etcd", "etcd's history", "export", "show", "the dashboard's /postmortems/PM-1")
	contains(t, before["show"], "above the limit for [redacted]")
	found(before, key, "etcd", "etcd's history", "executions", "export")
	for _, never := range []string{field, matched, header, query, off} {
		found(before, never)
	}
	w.ctl(0, []string{"1 key is erased, and 1 text of an excerpt", "kept: the digests"}, "postmortem", "erase", "PM-1", "--reason", "asked for")
	after := places()
	for _, gone := range []string{body, key, field, matched, header, query, off} {
		found(after, gone)
	}
	w.ctl(0, []string{"nothing is left to erase"}, "postmortem", "erase", "PM-1", "--reason", "asked for again")
	w.ctl(1, []string{"PM-7 does not exist"}, "postmortem", "erase", "PM-7", "--reason", "mistyped")
	w.ctl(0, []string{"1 record is whole"}, "postmortem", "verify")
}

// said keeps all that is sent to it.
type said struct {
	mu  sync.Mutex
	all strings.Builder
}

func (s *said) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all.Write(raw)
}

func (s *said) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

// client speaks to the etcd that the replicas share.
func (r *replicas) client() *clientv3.Client {
	r.t.Helper()
	config, err := transport.TLSInfo{CertFile: r.files.cert, KeyFile: r.files.key, TrustedCAFile: r.files.cert}.ClientConfig()
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{r.etcd}, TLS: config, Logger: zap.NewNop()})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return c
}
