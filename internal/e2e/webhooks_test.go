package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// hooked is a receiver that hangs until it is let go; then it takes everything.
type hooked struct {
	*httptest.Server
	mu    sync.Mutex
	hangs bool
	asked []string // ids while it hung
	took  []hook
}

type hook struct {
	id, kind, record string
	head             string
}

func startHooked(t *testing.T) *hooked {
	t.Helper()
	h := &hooked{hangs: true}
	h.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m struct {
			ID, Type string
			Data     struct {
				Record string
				Head   struct {
					Seq  uint64
					Link string
				}
			}
		}
		raw, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(raw, &m)
		}
		if err != nil || r.Header.Get("Webhook-Signature") == "" {
			return
		}
		h.mu.Lock()
		hangs := h.hangs
		if hangs {
			h.asked = append(h.asked, m.ID)
		} else {
			h.took = append(h.took, hook{m.ID, m.Type[strings.Index(m.Type, "specproxy.")+len("specproxy."):], m.Data.Record, fmt.Sprintf("%d:%s", m.Data.Head.Seq, m.Data.Head.Link)})
		}
		h.mu.Unlock()
		if hangs {
			<-r.Context().Done()
		}
	}))
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
	})
	return h
}

// config writes the file that --webhooks names.
func (h *hooked) config(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"secret":        strings.Repeat("s", 32),
		"webhooks.yaml": fmt.Sprintf("webhooks: [{name: desk, url: %s, secret: {file: %s}, events: [rollback, 'postmortem.*', chain.head]}]\n", h.URL, filepath.Join(dir, "secret")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "webhooks.yaml")
}

func (h *hooked) seen() (asked []string, took []hook) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.asked), slices.Clone(h.took)
}

// TestWebhooksOutliveTheLeader has a receiver hang over a rollback, kills the replica that tells it, and lets the next one go on.
func TestWebhooksOutliveTheLeader(t *testing.T) {
	h := startHooked(t)
	r := startReplicas(t)
	r.more = []string{"--webhooks", h.config(t)}
	r.add("a")
	r.add("b")
	a, b := r.all["a"], r.all["b"]
	leader := r.leader("a", 2)
	other := b
	if leader == "b" {
		other = a
	}
	eventually(t, "receiver that is known", func() error {
		return telemetryHas(other, `specproxy_webhook_behind_events{webhook="desk"} 0`)
	})
	other.staged("shop", "2.0.0", "2.1.0")
	other.rollback("shop") // does not wait for the receiver
	eventually(t, "attempt", func() error {
		if asked, _ := h.seen(); len(asked) == 0 {
			return fmt.Errorf("none yet")
		}
		return nil
	})
	r.all[leader].xds.kill()
	h.mu.Lock()
	h.hangs = false
	h.mu.Unlock()
	other.closePostMortem("PM-1", "false-alarm")
	var took []hook
	eventually(t, "message of the closing", func() error {
		if _, took = h.seen(); !slices.ContainsFunc(took, func(k hook) bool { return k.kind == "postmortem.closed" }) {
			return fmt.Errorf("told %+v", took)
		}
		return nil
	})
	if asked, _ := h.seen(); took[0].kind != "rollback" || took[0].id != asked[0] || took[0].record != "PM-1" || took[1].kind != "postmortem.opened" {
		t.Errorf("first asked to take %v, then took %+v", asked, took)
	}
	ids := map[string]bool{}
	for _, k := range took {
		if ids[k.id] {
			t.Errorf("%s was taken twice", k.id)
		}
		ids[k.id] = true
		if k.kind == "chain.head" {
			other.ctl(0, []string{"whole"}, "postmortem", "verify", "--head", k.head)
		}
	}
}

func telemetryHas(w *world, line string) error {
	res, err := http.Get("http://" + w.api + "/metrics")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err == nil && !strings.Contains(string(raw), line+"\n") {
		err = fmt.Errorf("/metrics has no %s", line)
	}
	return err
}
