package store

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// root is the prefix of every key. Records of another layout get another number, so that two layouts never mix.
const root = "specproxy/v1/"

// head is written by every transaction, so that a replica whose transaction was refused knows which revision its view must reach.
const head = root + "head"

// path joins the elements of a key below its kind. Elements are escaped, so a name can never reach into another one's prefix.
func path(elements ...string) string {
	escaped := make([]string, len(elements))
	for i, e := range elements {
		escaped[i] = url.PathEscape(e)
	}
	return strings.Join(escaped, "/")
}

// firstElement is the first of the elements that made the path.
func firstElement(path string) string {
	escaped, _, _ := strings.Cut(path, "/")
	name, err := url.PathUnescape(escaped)
	if err != nil {
		return escaped // Not written by path.
	}
	return name
}

// within is the prefix of all paths below the elements.
func within(elements ...string) string { return path(elements...) + "/" }

// named says that no element of the path is empty: such a path would be a mark's, or another record's.
func named(path string) bool { return !slices.Contains(strings.Split(path, "/"), "") }

// numbered writes n so that text order is number order.
func numbered(n uint64) string { return fmt.Sprintf("%020d", n) }

// fullKey is the etcd key of a path.
func fullKey(k *kind, path string) string { return root + k.name + "/" + path }

// splitKey takes an etcd key apart; false for keys that hold no record of a known kind: marks, and what a newer version may have added.
func splitKey(key string) (*kind, string, bool) {
	rest, ok := strings.CutPrefix(key, root)
	if !ok {
		return nil, "", false
	}
	name, path, ok := strings.Cut(rest, "/")
	if !ok || strings.HasSuffix(path, "/") {
		return nil, "", false
	}
	k, ok := kinds[name]
	return k, path, ok
}

// poolMarks is the prefix of the marks of the pools whose paths begin with the prefix. Every change of a pool's membership writes its
// mark: a deleted key is invisible to etcd's range comparison, the mark is not, so who read the pool compares the mark. Marks end in "/",
// which no record's key does.
func poolMarks(prefix string) string { return root + "pools/" + prefix }

// batchesMark is written when batches of a version are deleted, for the same reason; it lies inside the range that a list compares.
func batchesMark(k *kind, spec, version string) string {
	return root + k.name + "/" + within(spec, version) + batches + "/"
}

// exitMark is written when a version of the spec comes to be, or ceases to be, where a rollback may go: who looked for the newest one
// before another compares the mark, and not every version there ever was.
func exitMark(spec string) string { return root + "exits/" + within(spec) }
