package drain

import (
	"reflect"
	"testing"
	"time"
)

var kinds = Attribute{Name: "order-type", Header: "x-order-type", Values: []string{"small", "large*"}}

func TestSegmentsCountByDeclaredValues(t *testing.T) {
	routes := Attribute{Name: "route", Values: []string{"/refunds", "/orders/*"}}
	attributes := []Attribute{kinds, routes}
	l, now := NewLedger(Contract{Default: Action{OnRollback: Complete}}, attributes...), time.Date(2026, 11, 2, 2, 18, 0, 0, time.UTC)
	begin := func(id, path string, sent ...string) *Execution {
		place := PlaceOf(attributes, path, func(i int) []string {
			if i != 0 {
				t.Errorf("the header of attribute %d is asked for, which goes by path", i)
			}
			return sent
		})
		x, _ := l.Admit(Begin{ID: id, Method: "POST", Path: path, Started: now, Place: place})
		return x
	}
	begin("a", "/refunds", "small").End(200, now)
	begin("b", "/refunds?x=1", "large").End(503, now)
	parked := begin("c", "/orders/1", "large-and-urgent")
	parked.SetOutcome(false, "waits for a supervisor")
	begin("d", "/else", "<script>", "small").End(200, now)
	begin("e", "/orders", "").SetOutcome(true, "")
	begin("f", "/orders/")
	check := func(want ...Segment) {
		t.Helper()
		if got := l.Segments(); !reflect.DeepEqual(got, want) {
			t.Errorf("counted\n%+v\nwant\n%+v", got, want)
		}
	}
	check(Segment{"order-type", "small", 1, 0, 1}, Segment{"order-type", "large*", 2, 2, 0}, Segment{"order-type", ValueOther, 2, 0, 1}, Segment{"order-type", ValueAbsent, 1, 0, 0},
		Segment{"route", "/refunds", 2, 1, 1}, Segment{"route", "/orders/*", 2, 1, 0}, Segment{"route", ValueOther, 2, 0, 1})

	// A word that is taken back, and one that comes late, move no more than one execution.
	parked.SetOutcome(true, "")
	parked.End(200, now)
	if _, taken := l.Late("a", false, "the customer called"); !taken {
		t.Error("a late outcome is not taken")
	}
	check(Segment{"order-type", "small", 1, 1, 0}, Segment{"order-type", "large*", 2, 1, 0}, Segment{"order-type", ValueOther, 2, 0, 1}, Segment{"order-type", ValueAbsent, 1, 0, 0},
		Segment{"route", "/refunds", 2, 2, 0}, Segment{"route", "/orders/*", 2, 0, 0}, Segment{"route", ValueOther, 2, 0, 1})
}

func TestSegmentsOfSeveralInstancesAddUp(t *testing.T) {
	a := []Segment{{"order-type", "small", 3, 1, 0}}
	b := []Segment{{"order-type", "large*", 2, 2, 1}, {"order-type", "small", 4, 0, 2}}
	want := []Segment{{"order-type", "large*", 2, 2, 1}, {"order-type", "small", 7, 1, 2}}
	if got := PlusSegments(a, b); !reflect.DeepEqual(got, want) || a[0].Started != 3 {
		t.Errorf("sum %+v of %+v and %+v", got, a, b)
	}
	if NewLedger(Contract{Default: Action{OnRollback: Complete}}).Segments() != nil {
		t.Error("something is counted where nothing is declared")
	}
}
