// Package dashboard shows the fleet and its records in a browser, for reading: every action stays with specctl, and the pages say which command.
//
// Invariants: a page shows what the API reads, through the same functions, and keeps nothing of its own; no request
// changes anything but the browser's own session; whatever comes from outside (names, reasons, excerpts) is escaped; nothing is loaded from
// elsewhere, and no script or style stands in a page.
package dashboard

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"html/template"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/api"
	"github.com/specproxy/specproxy/internal/auth"
	"github.com/specproxy/specproxy/internal/postmortem"
)

// Prefix of every path that is served.
const Prefix = "/dashboard/"

// Reader is what is shown; *api.Server is one. Its first methods are those that the API serves.
type Reader interface {
	GetFleet(context.Context, *connect.Request[operatorv1.GetFleetRequest]) (*connect.Response[operatorv1.GetFleetResponse], error)
	GetSpec(context.Context, *connect.Request[operatorv1.GetSpecRequest]) (*connect.Response[operatorv1.GetSpecResponse], error)
	ListVersions(context.Context, *connect.Request[operatorv1.ListVersionsRequest]) (*connect.Response[operatorv1.ListVersionsResponse], error)
	ListDrains(context.Context, *connect.Request[operatorv1.ListDrainsRequest]) (*connect.Response[operatorv1.ListDrainsResponse], error)
	ListProxies(context.Context, *connect.Request[operatorv1.ListProxiesRequest]) (*connect.Response[operatorv1.ListProxiesResponse], error)
	GetRollout(context.Context, *connect.Request[operatorv1.GetRolloutRequest]) (*connect.Response[operatorv1.GetRolloutResponse], error)
	GetShadow(context.Context, *connect.Request[operatorv1.GetShadowRequest]) (*connect.Response[operatorv1.GetShadowResponse], error)
	GetStats(context.Context, *connect.Request[operatorv1.GetStatsRequest]) (*connect.Response[operatorv1.GetStatsResponse], error)
	Reach(spec string, generation uint64) (*operatorv1.GetEffectResponse, error)
	Record(id string) (postmortem.Record, error)
	Figures(r postmortem.Record) []postmortem.Found
	Records(spec string) []postmortem.Record
	OpenRecords() []postmortem.Record
	ChainHead() postmortem.Head
	Standpoint() api.Standpoint
}

// Options of a dashboard.
type Options struct {
	Reads Reader
	// Keys open it: every token that reads through the API.
	Keys *auth.Keyring
	// Hosts are names besides loopback under which it may be called.
	Hosts []string
	// TLS says that browsers come by https alone.
	TLS bool
	Log *zap.Logger
}

type dashboard struct {
	Options
}

//go:embed templates assets
var embedded embed.FS

// New is the handler of everything below Prefix.
func New(o Options) http.Handler {
	d := &dashboard{Options: o}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dashboard/assets/{name}", asset)
	mux.HandleFunc("GET /dashboard/login", d.loginForm)
	mux.HandleFunc("POST /dashboard/login", d.login)
	mux.HandleFunc("POST /dashboard/logout", d.logout)
	mux.Handle("GET /dashboard/{$}", d.reading(d.overview))
	mux.Handle("GET /dashboard/specs/{spec}", d.reading(d.spec))
	mux.Handle("GET /dashboard/postmortems", d.reading(d.records))
	mux.Handle("GET /dashboard/postmortems/{id}", d.reading(d.record))
	mux.Handle("GET /dashboard/proxies", d.reading(d.proxies))
	mux.Handle("GET /dashboard/stats", d.reading(d.stats))
	mux.Handle("GET /dashboard/", d.reading(func(r *http.Request) (page, error) {
		return page{}, connect.NewError(connect.CodeNotFound, errNoPage(r.URL.Path))
	}))
	return headers(auth.OwnSite(mux, o.Hosts))
}

type errNoPage string

func (e errNoPage) Error() string { return "there is no page " + string(e) }

// policy lets a page load what this server serves, and nothing else; what stands in the page itself does not run.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		// With no-referrer a browser would hide the Origin of our own forms too.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// page is what one template is filled with.
type page struct {
	// Template is the name of its file, without ".html".
	Template string
	Title    string
	// Nav is the entry of the navigation that it belongs to.
	Nav string
	// Alarm is how many things are wrong; the browser's tab shows it.
	Alarm int
	// Refresh is after how many seconds the page is to be read again; 0: not by itself.
	Refresh int
	Content any
	Status  int
}

// shell is what surrounds every page.
type shell struct {
	page
	Main  template.HTML
	Now   moment
	Open  int
	Stand []string
	Tag   string
	// Path of the page, for those who must sign in first.
	Path string
}

// reading serves a page to who may read.
func (d *dashboard) reading(read func(*http.Request) (page, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !d.admitted(r) {
			d.turnAway(w, r)
			return
		}
		p, err := read(r)
		if err != nil {
			p = failed(api.Explained(err))
			d.Log.Debug("a page could not be read", zap.String("path", r.URL.Path), zap.Error(err))
		}
		d.write(w, r, p)
	})
}

// write renders a page. Its tag is that of what is shown, not of the moment at which it is.
func (d *dashboard) write(w http.ResponseWriter, r *http.Request, p page) {
	now := time.Now()
	s := shell{page: p, Now: at(now, now), Open: len(d.Reads.OpenRecords()), Stand: standing(d.Reads.Standpoint()), Path: r.URL.Path}
	var main bytes.Buffer
	if err := views[p.Template].ExecuteTemplate(&main, "content", p.Content); err != nil {
		d.Log.Error("a page could not be written", zap.String("path", r.URL.Path), zap.Error(err))
		http.Error(w, "this page could not be written; the log of xds says why", http.StatusInternalServerError)
		return
	}
	s.Main = template.HTML(main.String()) //nolint:gosec // html/template wrote it just now
	s.Tag = tagOf(main.Bytes(), []byte(p.Title), []byte(strings.Join(s.Stand, "\n")), []byte(strconv.Itoa(s.Open)))
	if r.Header.Get("If-None-Match") == s.Tag && p.Status == 0 {
		w.Header().Set("ETag", s.Tag)
		w.WriteHeader(http.StatusNotModified)
		return
	}
	d.send(w, "shell", s, p.Status)
}

// send writes a whole document.
func (d *dashboard) send(w http.ResponseWriter, name string, s shell, status int) {
	var out bytes.Buffer
	if err := views["shell"].ExecuteTemplate(&out, name, s); err != nil {
		d.Log.Error("a page could not be written", zap.Error(err))
		http.Error(w, "this page could not be written; the log of xds says why", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	if s.Tag != "" {
		h.Set("ETag", s.Tag)
	}
	if status != 0 {
		w.WriteHeader(status)
	}
	_, _ = w.Write(out.Bytes()) // whoever went has nobody to be told
}

func tagOf(parts ...[]byte) string {
	sum := sha256.New()
	for _, p := range parts {
		sum.Write(p)
		sum.Write([]byte{0})
	}
	return `"` + hex.EncodeToString(sum.Sum(nil)[:12]) + `"`
}

// failure is what an error page says.
type failure struct{ Why, Next string }

// failed is the page of an error, whose text says what to type next.
func failed(err error) page {
	p := page{Template: "failed", Title: "Not shown", Status: http.StatusInternalServerError, Refresh: 5}
	text := err.Error()
	if coded, ok := errors.AsType[*connect.Error](err); ok {
		text = coded.Message()
		switch coded.Code() {
		case connect.CodeNotFound:
			p.Title, p.Status, p.Refresh = "Not found", http.StatusNotFound, 0
		case connect.CodeInvalidArgument:
			p.Title, p.Status, p.Refresh = "Not understood", http.StatusBadRequest, 0
		case connect.CodeUnavailable:
			p.Status = http.StatusServiceUnavailable
		default:
		}
	}
	why, next, _ := strings.Cut(text, "\n  next: ")
	p.Content = failure{Why: why, Next: next}
	return p
}

// standing says what is known against this replica's view.
func standing(s api.Standpoint) []string {
	var out []string
	if s.Adrift {
		out = append(out, "This replica has lost its place in etcd. What it shows is from before, and grows old; it takes no command until it is back. Ask another replica.")
	}
	if s.Leaderless && !s.Adrift {
		out = append(out, "No replica leads. Traffic is served and weights hold; rollouts, drains and records stand still until one is elected, which takes seconds.")
	}
	return out
}

// asset serves one of the embedded files. A page names it with its tag, so a browser keeps it for good.
func asset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	data, err := embedded.ReadFile("assets/" + path.Base(name))
	if err != nil {
		http.Error(w, "there is no such file", http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Content-Type", types[path.Ext(name)])
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("ETag", tagOf(data))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

var types = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

// assetPath is an asset's path with its tag.
func assetPath(name string) (string, error) {
	data, err := embedded.ReadFile("assets/" + name)
	if err != nil {
		return "", err
	}
	return Prefix + "assets/" + name + "?v=" + strings.Trim(tagOf(data), `"`), nil
}

// views are the templates: each page's own beside the parts that all share.
var views = parse("shell", "overview", "spec", "records", "record", "proxies", "stats", "failed")

func parse(names ...string) map[string]*template.Template {
	out := map[string]*template.Template{}
	for _, name := range names {
		t := template.New(name).Funcs(template.FuncMap{"asset": assetPath})
		out[name] = template.Must(t.ParseFS(embedded, "templates/parts.html", "templates/"+name+".html"))
	}
	return out
}
