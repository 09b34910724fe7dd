package control

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/specproxy/specproxy/internal/discovery"
	"github.com/specproxy/specproxy/internal/routing"
)

// ForgetProxy takes a proxy out of account that is away, since the caller vouches for it having ended.
func (c *Controller) ForgetProxy(ctx context.Context, actor Actor, node, reason string) error {
	if strings.TrimSpace(reason) == "" {
		return refuse("specctl proxies forget "+node+" --reason \"…\"", "who has proxy %s forgotten says why: if it still serves, nobody waits for what it does", node)
	}
	switch err := c.discovery.Forget(ctx, node, routing.Forgotten{At: time.Now().UTC(), By: actor.Name, Why: reason}); {
	case errors.Is(err, discovery.ErrNoProxy):
		return &NotFound{Refused{Why: "no proxy " + node + " was ever seen", Next: "specctl proxies"}}
	case errors.Is(err, discovery.ErrConnected):
		return refuse("specctl proxies "+node+"   (end it first)", "proxy %s is connected: it serves, and has its say", node)
	case err != nil:
		return err
	}
	c.log.Info("proxy forgotten", zap.String("node", node), zap.String("by", actor.Name), zap.String("reason", reason))
	return nil
}
