package e2e

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
	"github.com/specproxy/specproxy/internal/versions"
)

// fails runs a command that must end by itself with this exit code, and have said all the parts.
func fails(t *testing.T, code int, parts []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, name), args...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("%s %s: exit code %d (%v), want %d:\n%s", name, strings.Join(args, " "), got, err, code, out)
	}
	contains(t, string(out), parts...)
	return string(out)
}

// folder writes a version's files and returns where.
func folder(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i+1 < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, files[i]), []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const smallContract = "inFlight:\n  default: {onRollback: complete}\n"

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func TestUnknownNamesAreRefusedByName(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0")
	before := w.revision("shop")
	spec := []string{"spec nosuch does not exist", "specctl"}
	version := []string{"version 9.9.9 of shop is not published", "specctl versions shop"}
	for _, c := range []struct {
		parts []string
		args  string
	}{
		{spec, "get nosuch"},
		{spec, "versions nosuch"},
		{spec, "deploy nosuch:1.0.0"},
		{spec, "weights nosuch 1.0.0=50 1.1.0=50"},
		{spec, "rollback nosuch"},
		{spec, "executions nosuch"},
		{spec, "unfreeze nosuch"},
		{version, "deploy shop:9.9.9"},
		{version, "weights shop 2.0.0=50 9.9.9=50"},
		{version, "rollback shop --to 9.9.9"},
		{version, "rollback shop --from 9.9.9"},
		{version, "executions shop --on 9.9.9"},
	} {
		w.ctl(1, c.parts, strings.Fields(c.args)...)
	}
	for _, args := range []string{"deploy shop", "deploy shop:", "deploy :1.0.0", "deploy shop:v2", "weights shop 2.0.0", "rollback", "get"} {
		w.ctl(2, []string{"see: specctl " + strings.Fields(args)[0] + " --help"}, strings.Fields(args)...)
	}
	if after := w.revision("shop"); after != before {
		t.Errorf("the store moved from revision %d to %d", before, after)
	}
	run := func(ref string) []string {
		return []string{"--control", w.grpc, "--spec", ref, "--upstream", "http://127.0.0.1:1", "--cache-dir", t.TempDir()}
	}
	fails(t, 1, []string{"shop:9.9.9 is not published", "specctl versions shop"}, "specproxy", run("shop:9.9.9")...)
	fails(t, 1, []string{"nosuch:1.0.0 is not published", "specctl"}, "specproxy", run("nosuch:1.0.0")...)
	fails(t, 2, []string{"--spec", "name:version"}, "specproxy", run("shop")...)
}

func TestWeightsThatDoNotSumTo100AreRefused(t *testing.T) {
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0", "2.1.0")
	before := w.revision("shop")
	w.ctl(2, []string{"shop", "2.0.0=90 2.1.0=9", "sum to 99%", "specctl weights --help"}, "weights", "shop", "2.0.0=90", "2.1.0=9")
	w.ctl(2, []string{"sum to 100.01%"}, "weights", "shop", "2.0.0=90", "2.1.0=10.01")
	w.ctl(2, []string{"2.1.0=9.999"}, "weights", "shop", "2.0.0=90", "2.1.0=9.999")
	w.ctl(2, []string{"2.0.0 is named twice"}, "weights", "shop", "2.0.0=50", "2.0.0=50")
	for want, weights := range map[string][]*operatorv1.Weight{
		"weights sum to 99 %, not 100 %":    {{Version: "2.0.0", BasisPoints: 9000}, {Version: "2.1.0", BasisPoints: 900}},
		"weights sum to 0 %, not 100 %":     nil,
		"version 2.0.0 is named twice":      {{Version: "2.0.0", BasisPoints: 5000}, {Version: "2.0.0", BasisPoints: 5000}},
		"42949772.95 %, not 100 %":          {{Version: "2.0.0", BasisPoints: 1<<32 - 1}, {Version: "2.1.0", BasisPoints: 10000}},
		"weights sum to 99.99 %, not 100 %": {{Version: "2.0.0", BasisPoints: 9999}},
	} {
		_, err := w.client.SetWeights(t.Context(), connect.NewRequest(&operatorv1.SetWeightsRequest{Spec: "shop", Weights: weights}))
		refused(t, err, connect.CodeFailedPrecondition, "shop", want, "specctl get shop")
	}
	if after := w.revision("shop"); after != before || w.weights("shop") != "2.1.0=10000" {
		t.Errorf("the store moved from revision %d to %d, traffic %s", before, after, w.weights("shop"))
	}
}

func TestPortInUseIsNamed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	for _, flag := range []string{"--api", "--grpc"} {
		other := map[string]string{"--api": "--grpc", "--grpc": "--api"}[flag]
		data := t.TempDir()
		fails(t, 1, []string{flag + " " + address, "address already in use", "another control plane", flag + " 127.0.0.1:0"}, "xds", "--data-dir", data, flag, address, other, "127.0.0.1:0")
		if left, _ := os.ReadDir(data); len(left) != 0 {
			t.Errorf("%s: the data directory was begun: %v", flag, left)
		}
	}
	w := startPlane(t, nil)
	w.publish("shop", "2.0.0", completeContract)
	for _, flag := range []string{"--listen", "--local-api"} {
		marker := filepath.Join(t.TempDir(), "started")
		fails(t, 1, []string{flag + " " + address, "address already in use", "choose another"}, "specproxy",
			"--control", w.grpc, "--spec", "shop:2.0.0", flag, address, "--cache-dir", t.TempDir(), "--", "touch", marker)
		if exists(marker) {
			t.Errorf("%s is taken, and the agent was started", flag)
		}
	}
	if v := w.version("shop:2.0.0"); v.GetPool().GetInstances() != 0 {
		t.Errorf("an instance is registered: %v", v.GetPool())
	}
}

func TestUnreachableControlPlaneIsNamed(t *testing.T) {
	nobody := freeAddress(t)
	token := folder(t, "token", strings.Repeat("t", 32))
	fails(t, 1, []string{"cannot reach the control plane", "http://" + nobody, "connection refused", "xds --data-dir", "SPECPROXY_SERVER"}, "specctl",
		"--server", "http://"+nobody, "--token-file", filepath.Join(token, "token"), "rollback", "shop")
	// With another one in the list, that one answers.
	w := startPlane(t, nil)
	w.staged("shop", "2.0.0")
	w.ctl(0, []string{"2.0.0"}, "get", "shop", "--server", "http://"+nobody+",http://"+w.api)

	marker := filepath.Join(t.TempDir(), "started")
	fails(t, 1, []string{"shop:2.0.0", "no local copy", nobody, "connection refused", "xds", "--control"}, "specproxy",
		"--control", nobody, "--spec", "shop:2.0.0", "--cache-dir", t.TempDir(), "--", "touch", marker)
	if exists(marker) {
		t.Error("the agent was started without a spec")
	}
}

func TestCorruptDocumentKeepsTheAgentFromStarting(t *testing.T) {
	w := startPlane(t, nil)
	const original = "never refund more than was paid\n"
	dir := folder(t, "spec.yaml", "name: shop\nversion: 2.0.0\ndocuments: [policy.md]\n"+smallContract, "policy.md", original)
	w.ctl(0, []string{"shop:2.0.0 sha256:"}, "publish", dir)

	blobs := filepath.Join(w.dataDir, "archive", "blobs", "sha256")
	entries, err := os.ReadDir(blobs)
	if err != nil {
		t.Fatal(err)
	}
	var damaged string
	for _, e := range entries {
		if raw, err := os.ReadFile(filepath.Join(blobs, e.Name())); err == nil && string(raw) == original {
			damaged = e.Name()
		}
	}
	flipped := []byte(original)
	flipped[0] ^= 1
	file := filepath.Join(blobs, damaged)
	if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, flipped, 0o600)); err != nil {
		t.Fatal(err)
	}
	marker := filepath.Join(t.TempDir(), "started")
	args := []string{"--control", w.grpc, "--spec", "shop:2.0.0", "--cache-dir", t.TempDir(), "--", "touch", marker}
	fails(t, 1, []string{"shop:2.0.0", `"policy.md" is damaged`, "sha256:" + damaged, versions.DigestOf(flipped), "the agent is not started", "specctl publish"}, "specproxy", args...)
	if exists(marker) {
		t.Error("the agent was started with a damaged document")
	}
	// The remedy is the one that was named.
	w.ctl(0, []string{"nothing changed"}, "publish", dir)
	fails(t, 1, []string{"agent", "ended by itself"}, "specproxy", args...)
	if !exists(marker) {
		t.Error("the archive is repaired, and the agent is not started")
	}
}

func TestBadManifestIsRefusedWithItsLine(t *testing.T) {
	w := startPlane(t, nil)
	for name, c := range map[string]struct {
		manifest string
		parts    []string
	}{
		"unknown field": {
			"name: shop\nversion: 2.0.0\nbake: 1h\nstages: many\n" + smallContract,
			[]string{"line 4", `unknown field "stages"`},
		},
		"typo": {
			"name: shop\nversion: 2.0.0\ninFlight:\n  default: {onRollback: complete, wihtin: 2m, then: cancel}\n",
			[]string{"line 4", `unknown field "wihtin": did you mean "within"?`},
		},
		"bad version": {"name: shop\nversion: v2\n" + smallContract, []string{"line 2", "version"}},
		"no inFlight": {"name: shop\nversion: 2.0.0\n", []string{"inFlight is missing", "\ninFlight:\n  default: {onRollback: complete"}},
		"rule that cannot match": {
			"name: shop\nversion: 2.0.0\ninFlight:\n  effects: guarded\n  default: {onRollback: complete}\n  rules:\n    - when: {path: /v1/*}\n      onRollback: cancel\n" +
				"    - when: {path: /v1/chat, method: GET}\n      onRollback: complete\n",
			[]string{"line 9", "inFlight.rules[1]", "can never match", "inFlight.rules[0] comes first"},
		},
		"effects that are never known": {
			"name: shop\nversion: 2.0.0\ninFlight:\n  default: {onRollback: complete}\n  rules:\n    - when: {effects: none}\n      onRollback: cancel\n",
			[]string{"line 6", "can never match", "guarded"},
		},
		"document that is not there": {"name: shop\nversion: 2.0.0\ndocuments: [policy.md]\n" + smallContract, []string{"policy.md"}},
		"not YAML":                   {"name: [shop\n", []string{"line", "not YAML"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, "spec.yaml", c.manifest)
			w := *w
			w.t = t
			out := w.ctl(1, []string{dir, "next: correct it, and check it with: specctl lint " + dir}, "publish", dir)
			contains(t, strings.ReplaceAll(out, "\n  ", "\n"), c.parts...) // an example keeps its shape
			_, err := w.client.Publish(t.Context(), connect.NewRequest(&operatorv1.PublishRequest{Files: []*operatorv1.File{{Path: "spec.yaml", Content: []byte(c.manifest)}}}))
			refused(t, err, connect.CodeFailedPrecondition, append([]string{"specctl lint"}, c.parts...)...)
		})
	}
	w.ctl(1, []string{"spec shop does not exist"}, "versions", "shop")
}

func TestSameVersionWithOtherBytesIsRefusedWithBothDigests(t *testing.T) {
	w := startPlane(t, nil)
	manifest := "name: shop\nversion: 2.0.0\ndocuments: [policy.md]\n" + smallContract
	first := w.ctl(0, nil, "publish", folder(t, "spec.yaml", manifest, "policy.md", "one\n"))
	again := w.ctl(0, []string{"nothing changed"}, "publish", folder(t, "spec.yaml", manifest, "policy.md", "one\n"))
	digest := strings.Fields(first)[1]
	contains(t, again, digest)
	other := folder(t, "spec.yaml", manifest, "policy.md", "two\n")
	contains(t, w.ctl(0, nil, "lint", other), "shop:2.0.0 sha256:")
	otherDigest := strings.Fields(w.ctl(0, nil, "lint", other))[1]
	w.ctl(1, []string{"shop:2.0.0 exists already with other content", digest, otherDigest, "raise `version`"}, "publish", other)
	if got := w.version("shop:2.0.0").GetDigest(); got != digest {
		t.Errorf("the version is %s now, was %s", got, digest)
	}
}

func TestWrongRuntimeIsNeverReadyAndSaysWhy(t *testing.T) {
	w := startPlane(t, nil)
	a := startAgent(t, "2.0.0", newFlips())
	w.publish("shop", "1.0.0", completeContract)
	w.member("shop:1.0.0", "shop-1-0-0")
	w.ready("shop", "1.0.0", 1)
	w.deploy("shop", "1.0.0")
	w.publish("shop", "2.0.0", completeContract, "runtime: {model: m-7, tools: {refund: 3.1.0}}")
	w.sidecar("shop:2.0.0", a.url, "--instance", "wrong", "--runtime-model", "m-8", "--runtime-tool", "refund=3.1.0")
	const why = `the manifest demands model "m-7", the instance reports "m-8"`
	w.registered("shop:2.0.0", 1)
	w.ctl(1, []string{"shop:2.0.0 has no ready instance", "wrong: " + why}, "deploy", "shop:2.0.0")
	w.ctl(0, []string{"shop:2.0.0", "wrong", why}, "get", "shop")
	if v := w.version("shop:2.0.0"); v.GetPool().GetReady() != 0 {
		t.Errorf("pool %v", v.GetPool())
	}
	// One that runs what the manifest demands is ready.
	w.sidecar("shop:2.0.0", a.url, "--instance", "right", "--runtime-model", "m-7", "--runtime-tool", "refund=3.1.0")
	w.ready("shop", "2.0.0", 1)
	w.registered("shop:2.0.0", 2)
	w.ctl(0, nil, "deploy", "shop:2.0.0")
}

// registered waits until a version has n instances, ready or not.
func (w *world) registered(ref string, n uint32) {
	w.t.Helper()
	eventually(w.t, "registered instances of "+ref, func() error {
		if p := w.version(ref).GetPool(); p.GetInstances() != n {
			return errors.New(p.String())
		}
		return nil
	})
}

func TestSecondControlPlaneOnTheSameDataIsRefused(t *testing.T) {
	w := startXDS(t)
	w.publish("shop", "2.0.0", completeContract)
	fails(t, 1, []string{"data directory " + w.dataDir + " is in use by process", "stop that one", "--data-dir"}, "xds",
		"--data-dir", w.dataDir, "--api", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
	w.ctl(0, []string{"2.0.0"}, "versions", "shop") // the first one goes on
}

func TestBadFlagsAreUsageErrors(t *testing.T) {
	fails(t, 2, []string{"unknown flag: --apy"}, "xds", "--apy", "127.0.0.1:0")
	fails(t, 2, []string{"--log-level", "debug, info, warn or error"}, "xds", "--log-level", "loud", "--data-dir", t.TempDir())
	fails(t, 2, []string{"--api", "nowhere", "host:port"}, "xds", "--api", "nowhere", "--data-dir", t.TempDir())
	fails(t, 2, []string{"node"}, "xds", "bootstrap", "--listen", "127.0.0.1:10000")
	fails(t, 2, []string{"--control is required"}, "specproxy", "--spec", "shop:2.0.0", "--", "true")
	fails(t, 2, []string{"-- COMMAND", "--upstream"}, "specproxy", "--control", "127.0.0.1:18000", "--spec", "shop:2.0.0")
	fails(t, 2, []string{"unknown command", "did you mean rollback"}, "specctl", "rolback", "shop")
}
