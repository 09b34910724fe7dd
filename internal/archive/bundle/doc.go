// Package bundle moves versions between archives in one file: a tarball of an OCI image layout, with what is attached to the versions.
//
// Other OCI tools read what Write wrote, and Read takes what they wrote. Invariants:
//   - the same versions give the same bytes: no time, no order, no machine takes part;
//   - what Read returns is whole and verified, as strictly as if it were published; a file that is cut off, damaged or contradicts itself is
//     an error that names what is wrong, and nothing of it is returned;
//   - nothing is ever written to disk, so no name in a file can reach anything; names that try are refused all the same;
//   - memory is bounded by Limits, whatever the file says of itself.
package bundle

import "github.com/specproxy/specproxy/internal/versions"

// Entry is one version with what is attached to it.
type Entry struct {
	Version     versions.Packed
	Attachments []versions.Attachment
}

// Limits bound what is read.
type Limits struct {
	// Files in the tarball, folders included.
	Files int
	// Size of all of them, in bytes. They are held in memory.
	Size int64
}

// DefaultLimits hold some ten thousand versions of the usual kind.
var DefaultLimits = Limits{Files: 100_000, Size: 512 << 20}

const blobFolder = "blobs/sha256/"

// annotationSubject repeats, in index.json, which version an attachment refers to, as archives do in theirs.
const annotationSubject = "org.specproxy.subject"
