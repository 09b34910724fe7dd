package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"go.yaml.in/yaml/v3"

	"github.com/specproxy/specproxy/examples/refunds/refund"
)

// limitsFile is the document of the spec that the agent obeys.
const limitsFile = "limits.yaml"

// Limits is what the spec lets the agent pay, in whole dollars.
type Limits struct {
	// Limit is the most it may pay by itself.
	Limit int `yaml:"limit"`
	// Exception, where the spec has one, lets it go beyond.
	Exception *Exception `yaml:"exception"`
}

// Exception is the path beyond the limit.
type Exception struct {
	// UpTo is the most it may pay on this path.
	UpTo int `yaml:"upTo"`
	// Requires is what the request must show.
	Requires Requirement `yaml:"requires"`
}

// Requirement is a condition that a spec may name.
type Requirement string

// OrderNumber: the customer names the order that the money was paid for.
const OrderNumber Requirement = "order-number"

// readLimits reads the limits of a spec. It refuses what it does not know: an agent must not guess at its own authority.
func readLimits(path string) (Limits, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Limits{}, fmt.Errorf("the spec's limits: %w", err)
	}
	var document struct {
		Refund Limits `yaml:"refund"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&document); err != nil {
		return Limits{}, fmt.Errorf("%s: %w", path, err)
	}
	if err := document.Refund.validate(); err != nil {
		return Limits{}, fmt.Errorf("%s: %w", path, err)
	}
	return document.Refund, nil
}

func (l Limits) validate() error {
	if l.Limit <= 0 {
		return errors.New("refund.limit must be a number of dollars above zero")
	}
	if l.Exception == nil {
		return nil
	}
	if l.Exception.UpTo <= l.Limit {
		return fmt.Errorf("refund.exception.upTo is %d, which the limit of %d allows anyway", l.Exception.UpTo, l.Limit)
	}
	if l.Exception.Requires != OrderNumber {
		return fmt.Errorf("refund.exception.requires is %q; this agent knows %q only", l.Exception.Requires, OrderNumber)
	}
	return nil
}

// Allow says whether the agent may pay r by itself.
func (l Limits) Allow(r refund.Request) bool {
	if r.AmountCents <= l.Limit*100 {
		return true
	}
	return l.Exception != nil && r.AmountCents <= l.Exception.UpTo*100 && r.Order != ""
}

// most is the largest refund the agent may ever pay, in dollars.
func (l Limits) most() int {
	if l.Exception != nil {
		return l.Exception.UpTo
	}
	return l.Limit
}

// String is the limits in words.
func (l Limits) String() string {
	if l.Exception == nil {
		return fmt.Sprintf("up to $%d", l.Limit)
	}
	return fmt.Sprintf("up to $%d, and up to $%d with the %s", l.Limit, l.Exception.UpTo, l.Exception.Requires)
}
