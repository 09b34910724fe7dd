package cli

import (
	"strconv"

	"github.com/spf13/cobra"
)

// pageFlags are the flags of a command that lists a page at a time.
type pageFlags struct {
	limit  uint32
	after  string
	prefix string
}

func addPageFlags(cmd *cobra.Command, prefix string) *pageFlags {
	p := &pageFlags{}
	cmd.Flags().Uint32Var(&p.limit, "limit", 100, "how many to list, at most 1000")
	cmd.Flags().StringVar(&p.after, "after", "", "go on where the page before ended, as it says")
	cmd.Flags().StringVar(&p.prefix, "prefix", "", prefix)
	return p
}

// more says how to get the next page, with the same filters.
func (p *pageFlags) more(out *printer, command, next string, filters ...string) {
	if next == "" {
		return
	}
	line := command + " --after " + next
	if p.limit != 100 {
		line += " --limit " + strconv.FormatUint(uint64(p.limit), 10)
	}
	if p.prefix != "" {
		line += " --prefix " + p.prefix
	}
	for _, f := range filters {
		line += " " + f
	}
	out.field("more", "%s", line)
}
