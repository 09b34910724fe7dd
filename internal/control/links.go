package control

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/specproxy/specproxy/internal/store"
)

// What a link does.
const (
	LinkApprove  = "approve"
	LinkRollback = "rollback"
)

// link is what is signed: one action at one gate of one attempt. It is spent once the gate is open or the rollout over, and the gate's Since
// makes sure that it does not fit the same gate another time.
type link struct {
	Spec    string `json:"s"`
	Canary  string `json:"c"`
	Attempt int    `json:"a"`
	Step    int    `json:"t"`
	Gate    int    `json:"g"`
	Since   int64  `json:"k"`
	Action  string `json:"d"`
	Expires int64  `json:"x"`
}

// derived is a key of its own for one use of the cluster's secret.
func (c *Controller) derived(use string) []byte {
	mac := hmac.New(sha256.New, c.store.View().Secret())
	mac.Write([]byte("specproxy " + use))
	return mac.Sum(nil)
}

func (c *Controller) sign(l link) string {
	payload, err := json.Marshal(l)
	if err != nil {
		panic(err) // strings and numbers
	}
	mac := hmac.New(sha256.New, c.derived("gate links"))
	mac.Write(payload)
	return base64.RawURLEncoding.EncodeToString(payload) + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// openLink gives the link of a token, if it is one of ours and not too old.
func (c *Controller) openLink(token string, now time.Time) (link, error) {
	var l link
	bad := func() (link, error) {
		return link{}, &NotFound{Refused{Why: "this link is none of ours, or was cut short", Next: "ask for a new one: specctl canary status SPEC"}}
	}
	head, tail, ok := strings.Cut(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(head)
	sum, err2 := base64.RawURLEncoding.DecodeString(tail)
	if !ok || err != nil || err2 != nil {
		return bad()
	}
	mac := hmac.New(sha256.New, c.derived("gate links"))
	mac.Write(payload)
	if !hmac.Equal(mac.Sum(nil), sum) || json.Unmarshal(payload, &l) != nil {
		return bad()
	}
	if now.Unix() >= l.Expires {
		return l, refuse("ask for a new one: specctl canary status "+l.Spec, "this link was good until %s", time.Unix(l.Expires, 0).UTC().Format(time.RFC3339))
	}
	return l, nil
}

// Links of a gate that waits: to approve it, and to roll the canary back. They are good for as long as the gate's plan says, once.
func (c *Controller) Links(ro store.Rollout, gate int, now time.Time) (approve, rollback string) {
	if !ro.Waits(gate) || !ro.Gates[gate].Gate.Manual {
		return "", ""
	}
	l := link{
		Spec: ro.Spec, Canary: ro.Canary, Attempt: ro.Attempt, Step: ro.Step, Gate: gate, Since: ro.Gates[gate].Since.UnixNano(),
		// To the hour, so that a page that is read again shows the same link.
		Expires: now.Add(ro.Gates[gate].Gate.LinkLife() + time.Hour - 1).Truncate(time.Hour).Unix(),
	}
	at := func(action string) string {
		l.Action = action
		return c.publicURL + "/gates/" + c.sign(l)
	}
	return at(LinkApprove), at(LinkRollback)
}

// fits finds the gate that a link is for in the rollout as it is now.
func (l link) fits(ro store.Rollout, found bool) error {
	if found && ro.Canary == l.Canary && ro.Attempt == l.Attempt && ro.Step == l.Step && ro.Waits(l.Gate) && ro.Gates[l.Gate].Since.UnixNano() == l.Since {
		return nil
	}
	return refuse("specctl canary status "+l.Spec, "this link has been used, or what it was for is over")
}

// Visit says what a link would do; nothing is changed by looking.
func (c *Controller) Visit(token string, now time.Time) (ro store.Rollout, gate, action string, err error) {
	l, err := c.openLink(token, now)
	if err != nil {
		return ro, "", "", err
	}
	ro, found := c.store.View().Rollout(l.Spec)
	if err := l.fits(ro, found); err != nil {
		return ro, "", "", err
	}
	return ro, ro.Gates[l.Gate].Gate.Name, l.Action, nil
}
