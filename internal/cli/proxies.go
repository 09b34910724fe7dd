package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	operatorv1 "github.com/specproxy/specproxy/gen/specproxy/operator/v1"
)

func (a *app) forgetProxyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forget NODE --reason \"…\"",
		Short: "Wait no more for a proxy that has ended",
		Long: `Wait no more for a proxy that is away and will not come back under its name, such as
one of a group that was scaled down: no change counts it as a laggard, and no canary's
rehearsal fails by it. Else that takes 24 hours. You vouch for it serving nobody: what
a proxy does that is only cut off from the control plane, nobody can say. If it comes
back, it has its say again.`,
		Example: `  specctl proxies forget edge-7 --reason "scaled down"
  specctl proxies forget "$HOSTNAME" --reason "its pod has ended"   # from whatever ends them`,
		Args: exactly(1, "one proxy"),
	}
	reason := cmd.Flags().String("reason", "", "why, for the record")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if strings.TrimSpace(*reason) == "" {
			return usageError(cmd, "--reason is missing: it is written into the record")
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		if _, err := ask(cmd.Context(), c, client.ForgetProxy, &operatorv1.ForgetProxyRequest{Node: args[0], Reason: *reason}, 0); err != nil {
			return err
		}
		a.out.line("%s: forgotten; nothing waits for it any more", clean(args[0]))
		return nil
	}
	return cmd
}

// showProxy prints all that one proxy has.
func (a *app) showProxy(list *operatorv1.ListProxiesResponse, node string, format string) error {
	i := slices.IndexFunc(list.GetProxies(), func(p *operatorv1.Proxy) bool { return p.GetNode() == node })
	if i < 0 {
		return fmt.Errorf("proxy %s has not been seen in the last 24 hours, or was forgotten since\nnext: specctl proxies", node)
	}
	p := list.GetProxies()[i]
	if format == asJSON {
		return a.out.json(p)
	}
	a.out.field("version", "%s", p.GetVersion())
	state := "connected"
	if !p.GetConnected() {
		state = "away since " + precise(p.GetLastSeen())
	}
	if p.GetReplica() != "" {
		state += ", at replica " + p.GetReplica()
	}
	a.out.field("state", "%s", state)
	if p.GetRefusal() != "" {
		a.out.styled(red, "refused", "%s", p.GetRefusal())
	}
	if len(p.GetSpecs()) == 0 {
		a.out.field("specs", "none yet: it fetches a spec's routes with its first request")
		return nil
	}
	t := newTable("SPEC", "GENERATION", "ACKNOWLEDGED", "REFUSED")
	for _, s := range p.GetSpecs() {
		generation, at := "?", "?"
		if s.GetAckedGeneration() > 0 {
			generation, at = strconv.FormatUint(s.GetAckedGeneration(), 10), precise(s.GetAckedAt())
		}
		t.row(s.GetSpec(), generation, at, s.GetRefusal())
	}
	a.out.print(t, "")
	return nil
}

// printReplicas names the processes of the control plane, if there are several.
func (a *app) printReplicas(replicas []*operatorv1.Replica) {
	names := make([]string, 0, len(replicas))
	for _, r := range replicas {
		name := r.GetName()
		if r.GetLeader() {
			name += " (leads)"
		}
		names = append(names, name)
	}
	if len(names) > 0 {
		a.out.field("replicas", "%s", strings.Join(names, ", "))
	}
}
