package routing

import "time"

// Shadow sends copies of requests to a version whose answers nobody sees, and whose agents know that they are copies. It lasts as long as one
// version has all the weight: then it is clear with what the copies are compared.
type Shadow struct {
	Version string `json:"version"`
	// BasisPoints of the requests that are drawn by weight are copied.
	BasisPoints uint32 `json:"basisPoints"`
	// Since is the generation that it began with.
	Since uint64 `json:"since"`
	// Until is when it ends by itself; zero: never.
	Until  time.Time `json:"until,omitzero"`
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
}

// Same says that both copy the same share to the same version till the same end.
func (s *Shadow) Same(o *Shadow) bool {
	if s == nil || o == nil {
		return s == o
	}
	return s.Version == o.Version && s.BasisPoints == o.BasisPoints && s.Until.Equal(o.Until)
}
