package rig_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/specproxy/specproxy/bench/rig"
)

func TestRelayCountsWhatComesDown(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	relay, err := rig.NewRelay(t.Context(), server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Stop()

	client, err := net.Dial("tcp", relay.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const sent = 1 << 20
	if _, err := client.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(make([]byte, sent))
		written <- err
	}()
	if _, err := io.ReadFull(client, make([]byte, sent)); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if n, err := relay.Quiet(t.Context(), time.Millisecond); err != nil || n != sent {
		t.Errorf("counted %d bytes, %v; %d were sent", n, err, sent)
	}
	relay.Stop()
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlived the relay")
	}
}
