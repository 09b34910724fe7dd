package dashboard

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/specproxy/specproxy/internal/api"
	"github.com/specproxy/specproxy/internal/auth"
)

// pages are all that can be read.
var pages = []string{"/dashboard/", "/dashboard/specs/shop", "/dashboard/postmortems", "/dashboard/postmortems/PM-0", "/dashboard/postmortems/PM-1", "/dashboard/proxies", "/dashboard/stats"}

// do sends one request to a dashboard of this machine; header are names and values in turn.
func do(h http.Handler, method, path string, body url.Values, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, "http://127.0.0.1:18080"+path, strings.NewReader(body.Encode()))
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	res := httptest.NewRecorder()
	h.ServeHTTP(res, req)
	return res
}

// read reads one page with the token.
func read(t *testing.T, f *fleet, path string) string {
	t.Helper()
	res := do(New(*handler(t, f, nil)), "GET", path, nil, "Authorization", "Bearer "+secret)
	if res.Code != http.StatusOK {
		t.Fatalf("GET %s: %d\n%s", path, res.Code, res.Body)
	}
	return res.Body.String()
}

// shows wants each text in the page's own words, tags and space aside, in this order.
func shows(t *testing.T, page string, want ...string) {
	t.Helper()
	words := textOf(t, page)
	for _, w := range want {
		_, after, ok := strings.Cut(words, w)
		if !ok {
			t.Fatalf("the page does not say %q after what comes before it:\n%s", w, words)
		}
		words = after
	}
}

func textOf(t *testing.T, page string) string {
	t.Helper()
	var b strings.Builder
	for n := range parsed(t, page).Descendants() {
		if n.Type == html.TextNode {
			b.WriteString(" " + n.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func parsed(t *testing.T, page string) *html.Node {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestNobodyReadsWithoutTheToken(t *testing.T) {
	o := handler(t, busy("text"), nil)
	h := New(*o)
	session := func(keys *auth.Keyring, secret string, lasts time.Duration) string {
		made, ok := keys.Session(secret, time.Now().Add(lasts))
		if !ok {
			t.Fatal("no session")
		}
		return "specproxy-dashboard-18080=" + made
	}
	const another = "another-token-of-good-length"
	other, err := auth.NewKeyring(auth.NewToken(another), "", o.Log, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(slices.Clone(pages), "/dashboard/nothing", "/dashboard/specs/none") {
		for name, header := range map[string][]string{
			"nothing":           nil,
			"another token":     {"Authorization", "Bearer " + another},
			"another's session": {"Cookie", session(other, another, time.Hour)},
			"an ended session":  {"Cookie", session(o.Keys, secret, -time.Second)},
			"the token":         {"Cookie", "specproxy-dashboard-18080=" + secret},
		} {
			res := do(h, "GET", path, nil, header...)
			if res.Code != http.StatusUnauthorized || strings.Contains(res.Body.String(), "shop") {
				t.Errorf("GET %s with %s: %d\n%s", path, name, res.Code, res.Body)
			}
			res = do(h, "GET", path, nil, append(slices.Clone(header), "Accept", "text/html")...)
			if want := "/dashboard/login?next=" + url.QueryEscape(path); res.Code != http.StatusSeeOther || res.Header().Get("Location") != want {
				t.Errorf("a browser at %s with %s: %d, to %q, want %q", path, name, res.Code, res.Header().Get("Location"), want)
			}
		}
	}
	if res := do(h, "GET", "/dashboard/login", nil); res.Code != http.StatusOK || strings.Contains(res.Body.String(), "shop") {
		t.Errorf("the form: %d\n%s", res.Code, res.Body)
	}
}

func TestSigningIn(t *testing.T) {
	for _, tls := range []bool{false, true} {
		h := New(*handler(t, busy("text"), func(o *Options) { o.TLS = tls }))
		res := do(h, "POST", "/dashboard/login", url.Values{"token": {"wrong"}, "next": {"/dashboard/stats"}})
		if res.Code != http.StatusUnauthorized || len(res.Result().Cookies()) != 0 || !strings.Contains(res.Body.String(), "no token") {
			t.Fatalf("a wrong token: %d %v\n%s", res.Code, res.Result().Cookies(), res.Body)
		}
		if res = do(h, "GET", "/dashboard/login?token="+secret, nil); len(res.Result().Cookies()) != 0 {
			t.Error("a link signed somebody in")
		}
		res = do(h, "POST", "/dashboard/login", url.Values{"token": {" " + secret + "\n"}, "next": {"/dashboard/stats?spec=shop"}})
		if res.Code != http.StatusSeeOther || res.Header().Get("Location") != "/dashboard/stats?spec=shop" || len(res.Result().Cookies()) != 1 {
			t.Fatalf("the token: %d to %s, %v", res.Code, res.Header().Get("Location"), res.Result().Cookies())
		}
		c := res.Result().Cookies()[0]
		if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Secure != tls || c.Path != "/dashboard/" || strings.Contains(c.Value, secret) {
			t.Errorf("the cookie is %s", c)
		}
		if res = do(h, "GET", "/dashboard/", nil, "Cookie", c.Name+"="+c.Value); res.Code != http.StatusOK {
			t.Errorf("with the session: %d", res.Code)
		}
		res = do(h, "POST", "/dashboard/logout", url.Values{}, "Cookie", c.Name+"="+c.Value)
		if left := res.Result().Cookies(); len(left) != 1 || left[0].Value != "" || !left[0].Expires.Before(time.Now()) {
			t.Errorf("signing out left %v", left)
		}
	}
}

func TestSigningInLeadsNowhereElse(t *testing.T) {
	h := New(*handler(t, busy("text"), nil))
	for next, want := range map[string]string{
		"": "/dashboard/", "/dashboard/postmortems/PM-1": "/dashboard/postmortems/PM-1", "https://evil.example/dashboard/": "/dashboard/", "//evil.example/dashboard/": "/dashboard/",
		"/elsewhere": "/dashboard/", "/dashboard/login": "/dashboard/", "javascript:alert(1)": "/dashboard/", `/\evil.example/dashboard/`: "/dashboard/", "/dashboard/../metrics": "/dashboard/",
	} {
		if res := do(h, "POST", "/dashboard/login", url.Values{"token": {secret}, "next": {next}}); res.Header().Get("Location") != want {
			t.Errorf("next=%q leads to %q, want %q", next, res.Header().Get("Location"), want)
		}
	}
}

func TestOtherSites(t *testing.T) {
	h := New(*handler(t, busy("text"), func(o *Options) { o.Hosts = []string{"xds.example"} }))
	form := url.Values{"token": {secret}}
	for _, c := range []struct {
		name   string
		header []string
		want   int
	}{
		{"own form", []string{"Origin", "http://127.0.0.1:18080"}, http.StatusSeeOther},
		{"form elsewhere", []string{"Origin", "https://evil.example"}, http.StatusForbidden},
		{"form of nobody", []string{"Origin", "null"}, http.StatusForbidden},
		{"rebound name", []string{"Host", "evil.example:18080"}, http.StatusForbidden},
		{"a name of ours", []string{"Host", "xds.example:18080", "Origin", "http://xds.example:18080"}, http.StatusSeeOther},
	} {
		if res := do(h, "POST", "/dashboard/login", form, c.header...); res.Code != c.want {
			t.Errorf("%s: %d, want %d", c.name, res.Code, c.want)
		}
	}
	// A link in an alert: the browser keeps the cookie back, so the page comes back by itself, and brings it.
	res := do(h, "GET", "/dashboard/postmortems/PM-1", nil, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Accept", "text/html")
	if res.Code != http.StatusOK || !strings.Contains(res.Body.String(), `content="0;url=/dashboard/postmortems/PM-1"`) {
		t.Errorf("a link from elsewhere: %d\n%s", res.Code, res.Body)
	}
}

func TestOnlyReading(t *testing.T) {
	h := New(*handler(t, busy("text"), nil))
	for _, path := range append(slices.Clone(pages), "/dashboard/assets/live.js") {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
			if res := do(h, method, path, nil, "Authorization", "Bearer "+secret); res.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d", method, path, res.Code)
			}
		}
	}
	if res := do(h, "GET", "/dashboard/logout", nil, "Authorization", "Bearer "+secret); len(res.Result().Cookies()) != 0 {
		t.Error("a link signed somebody out")
	}
}

func TestHeadersKeepPagesToThemselves(t *testing.T) {
	h := New(*handler(t, busy("text"), nil))
	for _, path := range append(slices.Clone(pages), "/dashboard/login", "/dashboard/nothing") {
		res := do(h, "GET", path, nil, "Authorization", "Bearer "+secret)
		for name, want := range map[string]string{
			"Content-Security-Policy": policy, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Referrer-Policy": "same-origin", "Content-Type": "text/html; charset=utf-8",
		} {
			if got := res.Header().Get(name); got != want {
				t.Errorf("GET %s: %s is %q, want %q", path, name, got, want)
			}
		}
	}
	for _, banned := range []string{"unsafe", "*", "http"} {
		if strings.Contains(policy, banned) {
			t.Errorf("the policy allows %s", banned)
		}
	}
}

func TestUnchangedPagesAreNotSentAgain(t *testing.T) {
	f := busy("text")
	h := New(*handler(t, f, nil))
	get := func(tag string) *httptest.ResponseRecorder {
		return do(h, "GET", "/dashboard/stats", nil, "Authorization", "Bearer "+secret, "If-None-Match", tag)
	}
	first := get("")
	tag := first.Header().Get("ETag")
	if again := get(tag); tag == "" || again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("again with %s: %d, %d bytes", tag, again.Code, again.Body.Len())
	}
	f.stats.Overall.Deploys, f.stats.Specs[0].Deploys = 10, 10
	if changed := get(tag); changed.Code != http.StatusOK || changed.Header().Get("ETag") == tag {
		t.Errorf("after a change: %d, %s", changed.Code, changed.Header().Get("ETag"))
	}
	f.stand.Adrift = true
	if adrift := get(tag); adrift.Code != http.StatusOK {
		t.Errorf("a banner is no change: %d", adrift.Code)
	}
}

func TestAssetsAreKeptForGood(t *testing.T) {
	h := New(*handler(t, busy("text"), nil))
	page := do(h, "GET", "/dashboard/login", nil).Body.String()
	named := regexp.MustCompile(`/dashboard/assets/[^"]+`).FindAllString(read(t, busy("text"), "/dashboard/")+page, -1)
	if len(named) < 3 {
		t.Fatalf("the pages name %v", named)
	}
	for _, path := range named {
		res := do(h, "GET", strings.ReplaceAll(path, "&amp;", "&"), nil)
		if res.Code != http.StatusOK || !strings.Contains(res.Header().Get("Cache-Control"), "immutable") || res.Header().Get("ETag") == "" || !strings.Contains(path, "?v=") {
			t.Errorf("GET %s: %d, %v", path, res.Code, res.Header())
		}
		if again := do(h, "GET", path, nil, "If-None-Match", res.Header().Get("ETag")); again.Code != http.StatusNotModified {
			t.Errorf("GET %s again: %d", path, again.Code)
		}
	}
	for _, path := range []string{"/dashboard/assets/none.css", "/dashboard/assets/..%2ftemplates%2fshell.html"} {
		if res := do(h, "GET", path, nil); res.Code != http.StatusNotFound {
			t.Errorf("GET %s: %d", path, res.Code)
		}
	}
}

// Whatever stands where somebody from outside can write, a page has the elements and addresses that its template has.
func TestHostileTextStaysText(t *testing.T) {
	for _, text := range []string{
		`"><script>alert(1)</script><img src=x onerror=alert(1)>'`,
		"</code></pre></div></main></svg><iframe src=//evil.example></iframe><style>*{display:none}</style>",
		"[click](javascript:alert(1)) ![x](https://evil.example/x.png) <https://evil.example/> <a href='https://evil.example'>x</a> https://evil.example/",
		"x\n\n# Approved\n\n<div onclick=alert(1)>\nx\n</div>\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n[r]: javascript:alert(1)\n[r]\n",
		"javascript:alert(1)", "{{.}}", "</title><script>alert(1)</script>", "\x00\x01\u202eevil",
	} {
		for _, path := range pages {
			page := read(t, busy(text), path)
			if strings.Contains(page, "gate.example") {
				t.Errorf("%s shows a link that opens a gate", path)
			}
			for n := range parsed(t, page).Descendants() {
				if n.Type == html.ElementNode {
					checkElement(t, path, text, n)
				}
			}
		}
	}
}

func checkElement(t *testing.T, path, text string, n *html.Node) {
	t.Helper()
	switch n.Data {
	case "iframe", "img", "style", "object", "embed", "base":
		t.Errorf("%s with %q has an element %s", path, text, n.Data)
	case "h1", "h2", "h3":
		if c := n.FirstChild; c != nil && c.Data == "Approved" {
			t.Errorf("%s with %q has a heading of its own", path, text)
		}
	case "script":
		if n.FirstChild != nil {
			t.Errorf("%s with %q has a script in it", path, text)
		}
	}
	for _, a := range n.Attr {
		switch {
		case strings.HasPrefix(a.Key, "on") || a.Key == "style" || a.Key == "srcset":
			t.Errorf("%s with %q: <%s %s>", path, text, n.Data, a.Key)
		case a.Key == "href" || a.Key == "src" || a.Key == "action":
			if !strings.HasPrefix(a.Val, "/dashboard/") && !strings.HasPrefix(a.Val, "#") && !strings.HasPrefix(a.Val, "?") {
				t.Errorf("%s with %q: <%s %s=%q>", path, text, n.Data, a.Key, a.Val)
			}
		}
	}
}

func TestOverviewShowsProblemsFirst(t *testing.T) {
	shows(t, read(t, busy("outside"), "/dashboard/"),
		"1 of 1 specs in trouble", "1 of 2 proxies connected", "1 rollout going on", "2 drains going on", "1 post-mortem open, 2 overdue",
		"Problems", "shop outside it is slow generation 4 is refused: outside generation 4 is committed and not yet proven effective: proxy edge-2: outside", "specctl rollback shop",
		"the proxy refused its configuration: outside", "the proxy is not connected, last seen 1 min ago",
		"PM-1", "was to be answered by outside 1 d ago", "A1 was due 1 h ago, from outside: outside",
		// The set weight beside what it gets.
		"2.1.0 10 % 12 % unknown 1.2/s 0 of 1, 1 silent, fenced 0 quarantined PM-1",
		"2.0.0 90 % 88 % 98 % of 200 8.8/s 2 of 2 4 good",
		"1 more without traffic or instance",
		"Rollout of 2.1.0 failed against 2.0.0", "step 2 of 3, for 1 min of at most 1 h", "Way back outside", "outside: waits for a person; outside", "10 % set, 12 % in fact", "fail", "Answer by",
		"outside 5 of 12 7 of 280 22 20 below 40 %", "Rehearsal of the way back", "outside 41ms 38ms – outside", "What judges answered last", "outside step 1", "fail 0.75 is above 0.5, late", "outside the bake", "insufficient outside",
		"specctl canary status shop", "specctl canary approve shop",
		"2.1.0 drains to 2.0.0 held", "10 completed", "5 handed over, 5 arrived", "2 cancelled with a signal to retry", "1 held", "3 running", "hand-overs go to 1.9.0 now", "specctl executions shop --on 2.1.0",
		"not yet proven effective ; 1 of 2 proxies acknowledged, 0 of 1 instance fenced", "A rollback would go to 2.0.0", `specctl rollback shop --reason "…"`,
		"Open post-mortems", "PM-1", "shop 2.1.0 → 2.0.0")
}

func TestSpecPage(t *testing.T) {
	shows(t, read(t, busy("outside"), "/dashboard/specs/shop"),
		"shop frozen for automation", "specctl unfreeze shop", "Copies of requests", "10 % of the requests are copied to 2.2.0", "90 1 7 2 3", "Whatever the weights", "x-tenant: outside 2.2.0", "The way back", "specctl rollback shop --dry-run", `specctl rollback shop --reason "…"`,
		"Drains", "2.1.0 drains to 2.0.0", "1 ended", "Proxies", "not connected, last at generation 3", "edge-1 in sync 23 ms",
		"Weights by generation", "4", "weights 2.0.0 90 %, 2.1.0 10 %", "3", "rollback PM-1 2.0.0 100 %", "2", "target 2.0.0 100 %; x-tenant: outside to 2.2.0", "Versions", "abababababab", "quarantined", "PM-1")
}

func TestRecordPage(t *testing.T) {
	shows(t, read(t, busy("outside"), "/dashboard/postmortems/PM-1"),
		"PM-1 open", "shop 2.1.0 → 2.0.0", "effective 13 ms after the commit, by route and fence", "Owner", "overdue",
		"Who does what by when", "A1 outside outside overdue:", "A2",
		"What happened, and how did the cause lead to it? Nobody has answered.", `specctl postmortem answer PM-1 --explanation "…"`, "Why did the canary not catch it? outside outside",
		"Charts", "Weight by generation", "What is missing", "excerpts outside outside", "The record", "Which segment the canary never saw", "Where this comes from, and what is missing", "Chain", "specctl postmortem verify --head 7:abab")
	shows(t, read(t, busy("outside"), "/dashboard/postmortems/PM-0"), "PM-0 closed spec-error", "specctl postmortem reopen PM-0")
}

func TestEmptyFleetSaysWhatToDo(t *testing.T) {
	for path, want := range map[string][]string{
		"/dashboard/":            {"0 specs, none in trouble", "No spec is published yet", "specctl publish DIR", "None is open."},
		"/dashboard/postmortems": {"None is open: nothing was ever rolled back."},
		"/dashboard/proxies":     {"No proxy has ever connected", "xds bootstrap --node edge-1"},
		"/dashboard/stats":       {"Nothing was deployed yet."},
	} {
		shows(t, read(t, &fleet{}, path), want...)
	}
}

func TestWhatCannotBeShown(t *testing.T) {
	f := busy("outside")
	f.stand = api.Standpoint{Adrift: true, Leaderless: true}
	h := New(*handler(t, f, nil))
	for path, want := range map[string]string{"/dashboard/specs/none": "spec none", "/dashboard/postmortems/PM-9": "PM-9", "/dashboard/x": "there is no page /dashboard/x"} {
		res := do(h, "GET", path, nil, "Authorization", "Bearer "+secret)
		if res.Code != http.StatusNotFound {
			t.Errorf("GET %s: %d", path, res.Code)
		}
		shows(t, res.Body.String(), "lost its place in etcd", "This cannot be shown", want)
	}
	f.stand.Adrift = false
	shows(t, read(t, f, "/dashboard/"), "No replica leads")
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "less than 1 ms", 13 * time.Millisecond: "13 ms", 1500 * time.Millisecond: "1 s", 90 * time.Second: "1 min 30 s", time.Hour: "1 h", 61 * time.Minute: "1 h 1 min",
		12 * time.Minute: "12 min", 25 * time.Hour: "1 d 1 h", 800 * time.Hour: "33 d",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%s) = %q, want %q", d, got, want)
		}
	}
}

func TestCommandsAreSafeToCopy(t *testing.T) {
	for word, want := range map[string]string{
		"edge-1": "edge-1", "edge 1": "'edge 1'", "x; rm -rf ~": "'x; rm -rf ~'", "$(reboot)": "'$(reboot)'", "it's": `'it'\''s'`, "a\nreboot\n": "'areboot'", "": "''", "--help": "'--help'",
	} {
		if got := argument(word); got != want {
			t.Errorf("argument(%q) = %s, want %s", word, got, want)
		}
	}
	shows(t, read(t, busy("x; rm -rf ~"), "/dashboard/"), "specctl proxies 'x; rm -rf ~'")
}

func TestTicks(t *testing.T) {
	for _, r := range [][2]float64{{0, 100}, {-20, 5}, {0, 1}, {0, 885.5}, {-0.001, 0.002}, {3, 3.0001}} {
		got := ticks(r[0], r[1])
		if len(got) < 3 || len(got) > 12 || got[0] < r[0]-1e-9 || got[len(got)-1] > r[1]+1e-9 {
			t.Errorf("ticks(%v) = %s", r, fmt.Sprint(got))
		}
	}
}
