package signing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	attestation "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/specproxy/specproxy/internal/versions"
)

const (
	// PayloadType of every envelope, as the in-toto attestation framework has it.
	PayloadType = "application/vnd.in-toto+json"
	// PredicateType says what a statement of ours means: whoever signed it releases this version for use.
	PredicateType = "https://github.com/specproxy/specproxy/attestation/release/v1"
)

// Subject is what a statement is about.
type Subject struct {
	Ref versions.Ref
	// Digest of the version, "sha256:<hex>".
	Digest string
}

// Of is the subject of a statement about a version.
func Of(p versions.Packed) Subject { return Subject{Ref: p.Ref(), Digest: p.Digest} }

// Sign makes an envelope. With an ed25519 key the same subject gives the same bytes.
func Sign(ctx context.Context, key PrivateKey, s Subject) ([]byte, error) {
	payload, err := s.statement()
	if err != nil {
		return nil, err
	}
	signer, err := dsse.NewEnvelopeSigner(key.signer)
	if err != nil {
		return nil, err
	}
	envelope, err := signer.SignPayload(ctx, PayloadType, payload)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", s.Ref, err)
	}
	return json.Marshal(envelope)
}

func (s Subject) statement() ([]byte, error) {
	hex, ok := strings.CutPrefix(s.Digest, "sha256:")
	if !ok || s.Ref.Check() != nil {
		return nil, fmt.Errorf("%s with digest %q cannot be signed", s.Ref, s.Digest)
	}
	predicate, err := structpb.NewStruct(map[string]any{"spec": s.Ref.Spec, "version": s.Ref.Version})
	if err != nil {
		return nil, err
	}
	statement := &attestation.Statement{
		Type:          attestation.StatementTypeUri,
		Subject:       []*attestation.ResourceDescriptor{{Name: s.Ref.String(), Digest: map[string]string{"sha256": hex}}},
		PredicateType: PredicateType,
		Predicate:     predicate,
	}
	if err := statement.Validate(); err != nil {
		return nil, fmt.Errorf("statement about %s: %w", s.Ref, err)
	}
	loose, err := protojson.Marshal(statement)
	if err != nil {
		return nil, err
	}
	// protojson varies its spaces from build to build.
	var compact bytes.Buffer
	if err := json.Compact(&compact, loose); err != nil {
		return nil, err
	}
	return compact.Bytes(), nil
}

// Verify says which of the keys signed the subject in this envelope, or why none of them did.
func Verify(envelope []byte, s Subject, keys []PublicKey) (PublicKey, error) {
	e, err := parse(envelope)
	if err != nil {
		return PublicKey{}, err
	}
	if len(keys) == 0 {
		return PublicKey{}, errors.New("there is no key to check the signature against")
	}
	for _, key := range keys {
		verifier, err := dsse.NewEnvelopeVerifier(key.verifier)
		if err != nil {
			return PublicKey{}, err
		}
		_, payload, err := verifier.VerifyAndDecode(context.Background(), e) // computes only
		if err != nil {
			continue
		}
		if err := s.claimed(payload, e.PayloadType); err != nil {
			return PublicKey{}, fmt.Errorf("key %s signed something else: %w", Short(key.ID), err)
		}
		return key, nil
	}
	return PublicKey{}, fmt.Errorf("signed by %s: none of the keys that count, or changed since", named(e))
}

// Claims says that an envelope is about the subject, without asking who signed it: what is not cannot be of use to anybody.
func Claims(envelope []byte, s Subject) ([]string, error) {
	e, err := parse(envelope)
	if err != nil {
		return nil, err
	}
	payload, err := e.DecodeB64Payload()
	if err != nil {
		return nil, fmt.Errorf("the envelope's payload: %w", err)
	}
	if err := s.claimed(payload, e.PayloadType); err != nil {
		return nil, err
	}
	return KeyIDs(envelope), nil
}

// KeyIDs are the keys that an envelope says it was signed with; nil if it is none.
func KeyIDs(envelope []byte) []string {
	e, err := parse(envelope)
	if err != nil {
		return nil
	}
	ids := make([]string, 0, len(e.Signatures))
	for _, s := range e.Signatures {
		ids = append(ids, s.KeyID)
	}
	return ids
}

// maxSignatures of one envelope: each costs a computation for each key.
const maxSignatures = 16

func parse(envelope []byte) (*dsse.Envelope, error) {
	if len(envelope) > versions.MaxSignatureSize {
		return nil, fmt.Errorf("%d bytes are no signature: at most %d", len(envelope), versions.MaxSignatureSize)
	}
	var e dsse.Envelope
	if err := json.Unmarshal(envelope, &e); err != nil {
		return nil, fmt.Errorf("it is no DSSE envelope: %w", err)
	}
	if len(e.Signatures) == 0 || len(e.Signatures) > maxSignatures {
		return nil, fmt.Errorf("the envelope has %d signatures, not 1 to %d", len(e.Signatures), maxSignatures)
	}
	return &e, nil
}

// claimed says why the payload is not a statement that releases exactly this subject, or nil.
func (s Subject) claimed(payload []byte, payloadType string) error {
	if payloadType != PayloadType {
		return fmt.Errorf("its payload is %q, not %q", payloadType, PayloadType)
	}
	var statement attestation.Statement
	if err := protojson.Unmarshal(payload, &statement); err != nil {
		return fmt.Errorf("its payload is no in-toto statement: %w", err)
	}
	if err := statement.Validate(); err != nil {
		return fmt.Errorf("its payload is no in-toto statement: %w", err)
	}
	if statement.GetType() != attestation.StatementTypeUri || statement.GetPredicateType() != PredicateType {
		return fmt.Errorf("it states %s, not %s", statement.GetPredicateType(), PredicateType)
	}
	if len(statement.GetSubject()) != 1 {
		return fmt.Errorf("it is about %d things, not one version", len(statement.GetSubject()))
	}
	about := statement.GetSubject()[0]
	if about.GetName() != s.Ref.String() || "sha256:"+about.GetDigest()["sha256"] != s.Digest {
		return fmt.Errorf("it is about %s sha256:%s, not about %s %s", about.GetName(), about.GetDigest()["sha256"], s.Ref, s.Digest)
	}
	return nil
}

func named(e *dsse.Envelope) string {
	var ids []string
	for _, s := range e.Signatures {
		if s.KeyID == "" {
			ids = append(ids, "a key without id")
		} else {
			ids = append(ids, "key "+Short(s.KeyID))
		}
	}
	return strings.Join(ids, ", ")
}

// Short keeps enough of a key's id to tell keys apart by eye.
func Short(id string) string { return id[:min(len(id), 12)] }
