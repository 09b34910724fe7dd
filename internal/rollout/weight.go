package rollout

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/specproxy/specproxy/internal/rollout/evidence"
	"github.com/specproxy/specproxy/internal/yamlerr"
)

// Weight is a share of the traffic in basis points. It is written "5%" or "2.5%".
type Weight uint16

var percentage = regexp.MustCompile(`^(\d{1,3})(?:\.(\d{1,2}))? ?%$`)

// UnmarshalText reads a percentage with up to two decimals, exactly.
func (w *Weight) UnmarshalText(text []byte) error {
	m := percentage.FindSubmatch(text)
	if m == nil {
		return fmt.Errorf("%q is no share: write a percentage with up to two decimals, such as 5%% or 2.5%%", text)
	}
	n, err := strconv.ParseUint(string(m[1])+(string(m[2]) + "00")[:2], 10, 32)
	if err != nil || n > evidence.Whole {
		return fmt.Errorf("%q is more than all of the traffic", text)
	}
	*w = Weight(n)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (w Weight) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// String implements fmt.Stringer.
func (w Weight) String() string { return strconv.FormatFloat(float64(w)/100, 'f', -1, 64) + "%" }

// maxPlan bounds a plan's text, in bytes.
const maxPlan = 64 << 10

// ParsePlan reads a plan from YAML; unknown fields are errors. It is not completed.
func ParsePlan(data []byte) (Plan, error) {
	if len(data) > maxPlan {
		return Plan{}, fmt.Errorf("plan: %d bytes, at most %d", len(data), maxPlan)
	}
	var p Plan
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&p); err != nil && !errors.Is(err, io.EOF) {
		return Plan{}, fmt.Errorf("plan: %w", yamlerr.Plain(err))
	}
	return p, nil
}
