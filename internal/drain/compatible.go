package drain

import (
	"fmt"

	"github.com/Masterminds/semver/v3"
)

// CanHandOver says that some rule, the default or a promotion may hand an execution over to another version.
func (c Contract) CanHandOver() bool {
	if c.Default.OnRollback == Handover || c.OnPromote.Disposition == Handover {
		return true
	}
	for i := range c.Rules {
		if c.Rules[i].OnRollback == Handover {
			return true
		}
	}
	return false
}

// ShutdownHandsOver says that the end of an instance may hand an execution over, to another instance of the same version.
func (c Contract) ShutdownHandsOver() bool { return c.OnShutdown.Disposition == Handover }

// Compatible says that target can take over executions by hand-over. The contract must be valid.
func (c Contract) Compatible(target string) bool {
	if c.CompatibleWith == "" {
		return true
	}
	r, err := parseRange(c.CompatibleWith)
	if err != nil {
		return false
	}
	v, err := semver.StrictNewVersion(target)
	return err == nil && r.Check(v)
}

// parseRange reads a range of versions. A pre-release is in it by its precedence alone, as any other version: 2.1.0-rc.1 is in ">=2.0.0".
func parseRange(text string) (*semver.Constraints, error) {
	r, err := semver.NewConstraint(text)
	if err != nil {
		return nil, fmt.Errorf("%q is not a range of versions: write such as \">=2.0.0 <3.0.0\" or \"~2.1\"", text)
	}
	r.IncludePrerelease = true
	return r, nil
}
