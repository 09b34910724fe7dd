//go:build long

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

// browser is one tab of a real Chromium, and what went wrong in it.
type browser struct {
	t    *testing.T
	ctx  context.Context
	base string

	mu     sync.Mutex
	errors []string
}

// chromium finds the browser. Without one there is nothing that this test could say, so it fails.
func chromium(t *testing.T) string {
	t.Helper()
	installed, err := filepath.Abs("../../.tools/chromium/chromium")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{os.Getenv("CHROMIUM"), installed, "chromium", "chromium-headless-shell", "chromium-browser", "google-chrome"} {
		if name == "" {
			continue
		}
		if found, err := exec.LookPath(name); err == nil {
			return found
		}
	}
	t.Fatal("there is no browser: make chromium brings one, or set CHROMIUM to the path of a Chromium or Chrome")
	return ""
}

func startBrowser(t *testing.T, base string) *browser {
	t.Helper()
	b := &browser{t: t, base: base}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium(t)), chromedp.NoSandbox, chromedp.Flag("disable-dev-shm-usage", true))
	allocator, end := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(end)
	ctx, closed := chromedp.NewContext(allocator, chromedp.WithListener(b.listen))
	t.Cleanup(closed)
	b.ctx = ctx
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start the browser: %v", err)
	}
	return b
}

// listen collects errors of scripts, and what the browser itself complains of: refused by the policy, not loaded.
func (b *browser) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *log.EventEntryAdded:
		b.errors = append(b.errors, fmt.Sprintf("%s: %s (%s)", e.Entry.Level, e.Entry.Text, e.Entry.URL))
	case *runtime.EventExceptionThrown:
		b.errors = append(b.errors, "exception: "+e.ExceptionDetails.Text)
	case *runtime.EventConsoleAPICalled:
		b.errors = append(b.errors, fmt.Sprintf("console.%s", e.Type))
	}
}

// quiet fails if anything went wrong until now.
func (b *browser) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.errors {
		b.t.Errorf("the browser says %s", e)
	}
	b.errors = nil
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("browser: %v", err)
	}
}

// ask evaluates an expression in the page.
func ask[T any](b *browser, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	got, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return got
}

func (b *browser) open(path string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.base+path), chromedp.WaitVisible(chromedp.CSS("main")))
}

// says waits until an element's text has these words.
func (b *browser) says(selector, words string) {
	b.t.Helper()
	eventually(b.t, words+" in "+selector, func() error {
		got := ask[string](b, fmt.Sprintf("(document.querySelector(%q) || {innerText: 'no such element'}).innerText", selector))
		if flat := strings.Join(strings.Fields(got), " "); !strings.Contains(flat, words) {
			return fmt.Errorf("it says %q", flat)
		}
		return nil
	})
}

// look sets the size and the colours, and keeps a picture of the page in out/.
func (b *browser) look(path, name, scheme string, width int64) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 900, DeviceScaleFactor: 1, Mobile: width < 600}); err != nil {
		b.t.Fatal(err)
	}
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, media); err != nil {
		b.t.Fatal(err)
	}
	b.open(path)
	if over := ask[int](b, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); over > 0 {
		b.t.Errorf("%s is %d pixels wider than a screen of %d", path, over, width)
	}
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	dir := filepath.Join("..", "..", "out", "dashboard")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	file := filepath.Join(dir, fmt.Sprintf("%s-%s-%d.png", name, scheme, width))
	if err := os.WriteFile(file, picture, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func TestLongDashboardInABrowser(t *testing.T) {
	w := startXDS(t)
	w.staged("shop", "2.0.0", "2.1.0")
	b := startBrowser(t, "http://"+w.api)

	// Whoever follows a link signs in once, and comes to where it leads.
	b.open("/dashboard/specs/shop")
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), w.adminToken()), chromedp.Submit(chromedp.CSS("#token")), chromedp.WaitVisible(chromedp.CSS("#traffic")))
	b.says("h1", "shop")
	b.says("#exit", "specctl rollback shop --dry-run")
	if got := ask[string](b, "document.cookie"); got != "" {
		t.Errorf("scripts see the cookie %q", got)
	}

	// The page follows a change without being loaded again.
	ask[bool](b, "window.stayed = true")
	b.says("#traffic", "2.1.0 100 %")
	weights := []*operatorv1.Weight{{Version: "2.0.0", BasisPoints: 7500}, {Version: "2.1.0", BasisPoints: 2500}}
	if _, err := w.client.SetWeights(t.Context(), connect.NewRequest(&operatorv1.SetWeightsRequest{Spec: "shop", Weights: weights})); err != nil {
		t.Fatal(err)
	}
	b.says("#traffic", "2.1.0 25 %")
	b.says("#history", "2.0.0 75 %, 2.1.0 25 %")
	w.rollback("shop")
	b.says("#records", "PM-1")
	b.says("#open-records", "1 open")
	if !ask[bool](b, "window.stayed === true") {
		t.Error("the page was loaded again")
	}

	b.open("/dashboard/")
	b.says("#problems", "PM-1 is open: 2.1.0 was abandoned for 2.0.0")
	if title := ask[string](b, "document.title"); !strings.HasPrefix(title, "(1) ") {
		t.Errorf("the tab is called %q", title)
	}
	for path, name := range map[string]string{
		"/dashboard/": "overview", "/dashboard/specs/shop": "spec", "/dashboard/postmortems": "records", "/dashboard/postmortems/PM-1": "record", "/dashboard/proxies": "proxies", "/dashboard/stats": "stats",
	} {
		b.look(path, name, "light", 1280)
		b.look(path, name, "dark", 1280)
		b.look(path, name, "light", 390)
	}
	b.quiet()

	// Without scripts there is as much to read.
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.open("/dashboard/")
	b.says("#problems", "PM-1 is open")
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: false}); err != nil {
		t.Fatal(err)
	}
	b.open("/dashboard/")
	b.quiet()

	// What is old says so, and is live again afterwards.
	w.xds.kill()
	b.says("#contact", "No answer from the control plane since")
	w.restartXDS()
	eventually(t, "contact again", func() error {
		if text := ask[string](b, "document.getElementById('contact').innerText"); text != "" {
			return fmt.Errorf("it says %q", text)
		}
		return nil
	})
}
