package control

import (
	"fmt"

	"github.com/specproxy/specproxy/internal/routing"
)

// compatibleExit refuses a change after which a rollback would go to a version that cannot take over what the newest version hands over. That
// is said now, while there is time to mend it; when a rollback comes it is never refused for this, and such executions meet their rule's else.
func (c *Controller) compatibleExit(d *draft) error {
	records := d.after()
	newest := routing.Newest(d.Route.Splits, records)
	record := versionOf(newest, records)
	contract := record.Manifest.InFlight
	if contract.CompatibleWith == "" || !contract.CanHandOver() {
		return nil
	}
	exit, why, err := routing.Exit(newest, d.Route.Splits, records)
	if err != nil || contract.Compatible(exit) {
		return nil
	}
	return refuse(fmt.Sprintf("publish it with a compatibleWith that holds %s, or with a contract that does not hand over; specctl lint DIR explains a contract", exit),
		"%s hands executions over on a rollback, but only to versions in %q, and a rollback would go to %s (%s)", record.Ref(), contract.CompatibleWith, exit, why)
}
