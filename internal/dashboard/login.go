package dashboard

import (
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/auth"
)

// sessionFor is how long a browser stays signed in: a shift.
const sessionFor = 12 * time.Hour

// maxForm bounds the form that is posted.
const maxForm = 4 << 10

// cookieName differs by port, since browsers do not tell cookies of one host apart by it.
func cookieName(r *http.Request) string {
	_, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		return "specproxy-dashboard"
	}
	return "specproxy-dashboard-" + port
}

// admitted says whether a request may read: by the session of a browser, or by a token as the API takes it.
func (d *dashboard) admitted(r *http.Request) bool {
	if _, ok := d.Keys.Bearer(r.Header.Get("Authorization")); ok {
		return true
	}
	c, err := r.Cookie(cookieName(r))
	return err == nil && d.Keys.OpensSession(c.Value)
}

// turnAway sends a person to the form, and tells a program what it lacks.
func (d *dashboard) turnAway(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Header.Get("Sec-Fetch-Mode") == "navigate":
		// The session is kept from links on other sites, as in an alert. This page comes back by itself, and then brings it.
		d.send(w, "bounce", shell{page: page{Title: "One moment"}, Path: r.URL.RequestURI()}, 0)
	case r.Header.Get("Sec-Fetch-Mode") == "navigate" || strings.Contains(r.Header.Get("Accept"), "text/html"):
		http.Redirect(w, r, Prefix+"login?"+url.Values{"next": {r.URL.RequestURI()}}.Encode(), http.StatusSeeOther)
	default:
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "no valid token: sign in at "+Prefix+"login, or send Authorization: Bearer with a token of the API", http.StatusUnauthorized)
	}
}

// form is what the login page is filled with.
type form struct{ Next, Refused, TokenFile string }

func (d *dashboard) loginForm(w http.ResponseWriter, r *http.Request) {
	d.showForm(w, form{Next: localPath(r.URL.Query().Get("next"))}, 0)
}

func (d *dashboard) showForm(w http.ResponseWriter, f form, status int) {
	f.TokenFile = auth.AdminTokenFile
	d.send(w, "login", shell{page: page{Title: "Sign in", Content: f}}, status)
}

func (d *dashboard) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	next := localPath(r.PostFormValue("next"))
	until := time.Now().Add(sessionFor)
	session, ok := d.Keys.Session(strings.TrimSpace(r.PostFormValue("token")), until)
	if !ok {
		d.showForm(w, form{Next: next, Refused: "That is no token of this control plane."}, http.StatusUnauthorized)
		return
	}
	http.SetCookie(w, d.cookie(r, session, until))
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (d *dashboard) logout(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, d.cookie(r, "", time.Unix(1, 0)))
	http.Redirect(w, r, Prefix+"login", http.StatusSeeOther)
}

func (d *dashboard) cookie(r *http.Request, value string, until time.Time) *http.Cookie {
	return &http.Cookie{
		Name: cookieName(r), Value: value, Path: Prefix, Expires: until, HttpOnly: true, Secure: d.TLS, SameSite: http.SameSiteStrictMode,
	}
}

// localPath is a path of the dashboard as it was asked for, or that of the overview: a form must not send anybody elsewhere.
func localPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(u.Path, Prefix) || !strings.HasPrefix(path.Clean(u.Path)+"/", Prefix) || strings.HasPrefix(u.Path, Prefix+"log") {
		return Prefix
	}
	return (&url.URL{Path: u.Path, RawQuery: u.RawQuery}).String()
}
