package drain_test

import (
	"slices"
	"testing"

	"github.com/specproxy/specproxy/internal/drain"
)

func TestStrands(t *testing.T) {
	for _, c := range []struct {
		contract string
		want     []string
	}{
		{`{default: {onRollback: cancel}}`, nil},
		{`{default: {onRollback: complete, within: 2m, then: cancel}, rules: [{when: {method: GET}, onRollback: handover, else: cancel}]}`, nil},
		{`{default: {onRollback: complete}}`,
			[]string{"default: no deadline is given, so after the pool's default one an execution is held until its agent ends it or a person does; nothing else will"}},
		{`{default: {onRollback: handover, else: complete}}`,
			[]string{"default: no deadline is given, so after the pool's default one an execution is held until its agent ends it or a person does; nothing else will"}},
		{`{default: {onRollback: cancel}, rules: [{when: {method: GET}, onRollback: cancel}, {when: {effects: irreversible}, onRollback: complete, within: 15m, then: hold}]}`,
			[]string{"rule 2: after 15m an execution is held until its agent ends it or a person does; nothing else will"}},
	} {
		if got := drain.Strands(mustContract(t, c.contract)); !slices.Equal(got, c.want) {
			t.Errorf("%s\n got %q\nwant %q", c.contract, got, c.want)
		}
	}
}
