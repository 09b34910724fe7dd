package execid_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/specproxy/specproxy/internal/sidecar/execid"
)

var (
	versionGen  = rapid.StringMatching(`[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(-[a-z0-9]{1,5}(\.[0-9]{1,3})?)?`)
	instanceGen = rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?`)
	keyGen      = rapid.SliceOfN(rapid.Byte(), 1, 40)
)

func mint(t *rapid.T, key []byte) (id, version, instance string) {
	version, instance = versionGen.Draw(t, "version"), instanceGen.Draw(t, "instance")
	random := [execid.RandomSize]byte(rapid.SliceOfN(rapid.Byte(), execid.RandomSize, execid.RandomSize).Draw(t, "random"))
	return execid.Mint(key, version, instance, random), version, instance
}

func TestWhatIsMintedVerifies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := keyGen.Draw(t, "key")
		id, version, instance := mint(t, key)
		if v, i, ok := execid.Verify(key, id); !ok || v != version || i != instance {
			t.Fatalf("%s: %q %q %v", id, v, i, ok)
		}
	})
}

func TestWhatIsChangedDoesNotVerify(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := keyGen.Draw(t, "key")
		id, _, _ := mint(t, key)
		at := rapid.IntRange(0, len(id)-1).Draw(t, "at")
		other := rapid.Byte().Filter(func(b byte) bool { return b != id[at] }).Draw(t, "byte")
		changed := id[:at] + string([]byte{other}) + id[at+1:]
		if _, _, ok := execid.Verify(key, changed); ok {
			t.Fatalf("%q verifies, changed from %q", changed, id)
		}
		if _, _, ok := execid.Verify(append([]byte{1}, key...), id); ok {
			t.Fatal("it verifies under another key")
		}
	})
}

func FuzzVerify(f *testing.F) {
	for _, seed := range []string{"", ".", "x1.", "x1.a.b.c.d", strings.Repeat(".", 300), "x1.2.0.3.i.r."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		for _, key := range [][]byte{nil, []byte("secret that nobody guesses")} {
			if _, _, ok := execid.Verify(key, id); ok {
				t.Errorf("%q verifies", id)
			}
		}
	})
}

func TestCheckInstance(t *testing.T) {
	for _, good := range []string{"a", "host-1f2e", "0"} {
		if err := execid.CheckInstance(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "a.b", "A", "-a", "a-", strings.Repeat("a", 64), "a b"} {
		if err := execid.CheckInstance(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
