package main

import (
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	if chosen, err := choose(all(), nil); err != nil || len(chosen) != len(all()) {
		t.Errorf("no name: %d benchmarks, %v", len(chosen), err)
	}
	if chosen, err := choose(all(), []string{"flip"}); err != nil || len(chosen) != 1 || chosen[0].name != "flip" {
		t.Errorf("flip: %v, %v", chosen, err)
	}
	if _, err := choose(all(), []string{"flop"}); err == nil || !strings.Contains(err.Error(), "flip") {
		t.Errorf("an unknown name: %v", err)
	}
}
