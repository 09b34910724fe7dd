// Package loopback finds ports for processes that cannot choose one themselves and tell: tests, the example and the benchmarks start many.
package loopback

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports below those that systems give to whoever names none, so that no connection of anybody's begins at one.
const lowest, count = 20_000, 10_000

// held keeps each port from other callers in all processes until this one ends: the same number as a UDP port, which nobody else wants.
var held struct {
	sync.Mutex
	claims []*net.UDPConn
}

// Address is host and port on 127.0.0.1 that nothing listens on, and that no other call in any process gets while this process lives. It stays
// free for whoever is told to listen there, also again after that one ended.
func Address() (string, error) {
	first := rand.IntN(count)
	for i := range count {
		port := lowest + (first+i)%count
		claim, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			continue
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		l, err := net.Listen("tcp4", address)
		if err != nil {
			_ = claim.Close()
			continue
		}
		if err := l.Close(); err != nil {
			return "", err
		}
		held.Lock()
		held.claims = append(held.claims, claim)
		held.Unlock()
		return address, nil
	}
	return "", errors.New("no port from 20000 to 29999 is free on 127.0.0.1")
}
