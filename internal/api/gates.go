package api

import (
	"errors"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/control"
	"github.com/specproxy/specproxy/internal/rollout"
)

// maxForm bounds what a page's form may send.
const maxForm = 8 << 10

var gatePage = template.Must(template.New("gate").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">
<title>{{.Title}}</title>
<style>body{font:16px/1.5 system-ui;max-width:40em;margin:3em auto;padding:0 1em}input{font:inherit;width:100%;margin:.2em 0 1em}button{font:inherit;padding:.5em 1.5em}</style>
</head><body><h1>{{.Title}}</h1>
{{range .Lines}}<p>{{.}}</p>
{{end}}{{if .Button}}<form method="post">
<label>Who are you? <input name="by" maxlength="100" required></label>
<label>Why? <input name="reason" maxlength="300"></label>
<button>{{.Button}}</button>
</form>{{end}}</body></html>
`))

type gateView struct {
	Title  string
	Lines  []string
	Button string
}

// Gates serves the pages of gates' links. The signed link is all the permission there is, so it wants no token. GET and HEAD change nothing: chat
// programs fetch what is posted into them.
func (s *Server) Gates() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.URL.Path, "/gates/")
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			s.showGate(w, token)
		case http.MethodPost:
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			if err := r.ParseForm(); err != nil {
				show(w, http.StatusBadRequest, gateView{Title: "That was too much"})
				return
			}
			done, err := s.Control.Follow(r.Context(), token, r.PostForm.Get("by"), r.PostForm.Get("reason"), time.Now().UTC())
			if err != nil {
				showError(w, err)
				return
			}
			show(w, http.StatusOK, gateView{Title: done, Lines: []string{"This link is spent."}})
		default:
			h.Set("Allow", "GET, HEAD, POST")
			show(w, http.StatusMethodNotAllowed, gateView{Title: "Open this page in a browser"})
		}
	})
}

func (s *Server) showGate(w http.ResponseWriter, token string) {
	ro, gate, action, err := s.Control.Visit(token, time.Now().UTC())
	if err != nil {
		showError(w, err)
		return
	}
	v := gateView{Title: "Approve " + ro.Spec + ":" + ro.Canary + "?", Button: "Approve: open gate " + gate}
	if action == control.LinkRollback {
		v.Title, v.Button = "Roll back "+ro.Spec+":"+ro.Canary+"?", "Roll back to "+ro.Stable
	}
	verdict := ro.Judge(time.Now())
	v.Lines = []string{
		"It has " + rollout.Weight(ro.Weight()).String() + " of the new executions of " + ro.Spec + ", beside " + ro.Stable + ". It is " + ro.Why + ".",
		"Verdict now: " + string(verdict.Result) + ", " + verdict.Reason + ".",
	}
	show(w, http.StatusOK, v)
}

func showError(w http.ResponseWriter, err error) {
	var missing *control.NotFound
	var refused *control.Refused
	switch {
	case errors.As(err, &missing):
		show(w, http.StatusNotFound, gateView{Title: "No such link", Lines: []string{missing.Why, missing.Next}})
	case errors.As(err, &refused):
		show(w, http.StatusGone, gateView{Title: "Not done", Lines: []string{refused.Why, refused.Next}})
	default:
		show(w, http.StatusInternalServerError, gateView{Title: "Not done", Lines: []string{"The control plane could not do it: try again."}})
	}
}

func show(w http.ResponseWriter, status int, v gateView) {
	w.WriteHeader(status)
	_ = gatePage.Execute(w, v) // whoever asked is gone
}
