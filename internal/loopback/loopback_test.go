package loopback_test

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/specproxy/specproxy/internal/loopback"
)

const asked = "SPECPROXY_LOOPBACK_ADDRESSES"

func TestMain(m *testing.M) {
	if os.Getenv(asked) == "" {
		os.Exit(m.Run())
	}
	for range 300 {
		address, err := loopback.Address()
		if err != nil {
			panic(err)
		}
		_, _ = os.Stdout.WriteString(address + "\n")
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the parent has asked too
}

func TestNoTwoProcessesGetTheSameAddress(t *testing.T) {
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), asked+"=1")
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	child.Stdout, child.Stderr = &out, os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	mine := map[string]bool{}
	for range 300 {
		address, err := loopback.Address()
		if err != nil {
			t.Fatal(err)
		}
		if mine[address] {
			t.Errorf("%s twice", address)
		}
		mine[address] = true
	}
	stdin.Close()
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	theirs := strings.Fields(out.String())
	if len(theirs) != 300 {
		t.Fatalf("the other process got %d addresses", len(theirs))
	}
	for _, address := range theirs {
		if mine[address] {
			t.Errorf("%s in both processes", address)
		}
	}
}

func TestAnAddressCanBeListenedAtAgainAndAgain(t *testing.T) {
	address, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		l.Close()
	}
}
