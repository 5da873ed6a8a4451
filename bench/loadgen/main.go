// SPDX-License-Identifier: Apache-2.0

// Command loadgen asks one HTTP/1.1 server the same question over N keep-alive connections and reports requests per second.
//
// It exists because the load generators of the distributions are linked to an OpenSSL that cannot negotiate X25519MLKEM768,
// and because plain TCP and TLS can be compared only with one and the same client. Rules of the file:
//
//   - Every response is read to its end and its status and body are compared; the first wrong one ends the run with status 1.
//   - One thread and an epoll loop over blocking sockets, as wrk -t1 does, with crypto/tls on top where asked for: the
//     scheduler and the network poller of Go would cost more than the servers measured here. A connection has one request in
//     flight, so a read that blocks waits only for a response already begun.
//   - The clock starts after the last handshake. Every wait has a limit.
package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

const (
	maxResponseBytes = 64 << 10
	ioTimeoutS       = 10
)

// socket is a blocking stream socket with just enough of net.Conn for crypto/tls.
type socket int

func (s socket) Read(p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(s), p)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, fmt.Errorf("read: %w", err)
		case n == 0:
			return 0, errors.New("read: the server closed the connection")
		default:
			return n, nil
		}
	}
}

func (s socket) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := syscall.Write(int(s), p[done:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return done, fmt.Errorf("write: %w", err)
		}
		done += n
	}
	return done, nil
}

func (s socket) Close() error                     { return syscall.Close(int(s)) }
func (s socket) LocalAddr() net.Addr              { return nil }
func (s socket) RemoteAddr() net.Addr             { return nil }
func (s socket) SetDeadline(time.Time) error      { return nil }
func (s socket) SetReadDeadline(time.Time) error  { return nil }
func (s socket) SetWriteDeadline(time.Time) error { return nil }

func dial(addr netip.AddrPort) (socket, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	limit := syscall.Timeval{Sec: ioTimeoutS}
	for _, option := range []int{syscall.SO_RCVTIMEO, syscall.SO_SNDTIMEO} {
		if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, option, &limit); err != nil {
			return -1, fmt.Errorf("setsockopt: %w", err)
		}
	}
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
		return -1, fmt.Errorf("setsockopt: %w", err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
		return -1, fmt.Errorf("connect %s: %w", addr, err)
	}
	return socket(fd), nil
}

// client is one connection and the buffer its responses are read into.
type client struct {
	fd     int
	stream net.Conn
	buffer [maxResponseBytes]byte
}

func connect(addr netip.AddrPort, overTLS bool) (*client, *tls.ConnectionState, error) {
	s, err := dial(addr)
	if err != nil {
		return nil, nil, err
	}
	if !overTLS {
		return &client{fd: int(s), stream: s}, nil, nil
	}
	// The server's certificate is made for the run; what is measured is the channel, not who is at its end.
	t := tls.Client(s, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: "localhost"})
	if err := t.Handshake(); err != nil {
		return nil, nil, fmt.Errorf("handshake: %w", err)
	}
	state := t.ConnectionState()
	return &client{fd: int(s), stream: t}, &state, nil
}

// receive reads one whole response and compares it with what every response must be.
func (c *client) receive(wantBody []byte) error {
	used, bodyAt, size := 0, 0, 0
	for bodyAt == 0 || used < bodyAt+size {
		if used == len(c.buffer) {
			return fmt.Errorf("response is longer than %d bytes", maxResponseBytes)
		}
		n, err := c.stream.Read(c.buffer[used:])
		if err != nil {
			return err
		}
		used += n
		if bodyAt == 0 {
			if end := bytes.Index(c.buffer[:used], []byte("\r\n\r\n")); end >= 0 {
				bodyAt = end + 4
				if size, err = contentLength(c.buffer[:end+2]); err != nil {
					return err
				}
			}
		}
	}
	if !bytes.HasPrefix(c.buffer[:used], []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("response begins %q, want HTTP/1.1 200", c.buffer[:min(used, 40)])
	}
	if body := c.buffer[bodyAt:used]; !bytes.Equal(body, wantBody) {
		return fmt.Errorf("body is %q, want %q", body[:min(len(body), 80)], wantBody)
	}
	return nil
}

// contentLength finds the one header that tells where the response ends. head ends with the last header's line end.
func contentLength(head []byte) (int, error) {
	name := []byte("content-length:")
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], name) {
			return strconv.Atoi(string(bytes.TrimSpace(line[len(name):])))
		}
	}
	return 0, errors.New("response has no content-length")
}

type report struct {
	Requests       int     `json:"requests"`
	Seconds        float64 `json:"seconds"`
	RequestsPerS   float64 `json:"requests_per_s"`
	Connections    int     `json:"connections"`
	TLSVersion     string  `json:"tls_version,omitempty"`
	Group          string  `json:"group,omitempty"`
	CipherSuite    string  `json:"cipher_suite,omitempty"`
	HandshakeMsAvg float64 `json:"handshake_ms_avg,omitempty"`
}

func run(addr netip.AddrPort, connections int, duration time.Duration, overTLS bool, group string, body []byte) (*report, error) {
	result := &report{Connections: connections}
	clients := make([]*client, connections)
	poller, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	began := time.Now()
	for i := range clients {
		c, state, err := connect(addr, overTLS)
		if err != nil {
			return nil, err
		}
		if state != nil {
			result.TLSVersion = tls.VersionName(state.Version)
			result.Group = state.CurveID.String()
			result.CipherSuite = tls.CipherSuiteName(state.CipherSuite)
			if group != "" && result.Group != group {
				return nil, fmt.Errorf("key exchange is %s, want %s", result.Group, group)
			}
		}
		event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(i)}
		if err := syscall.EpollCtl(poller, syscall.EPOLL_CTL_ADD, c.fd, &event); err != nil {
			return nil, fmt.Errorf("epoll: %w", err)
		}
		clients[i] = c
	}
	if overTLS {
		result.HandshakeMsAvg = time.Since(began).Seconds() * 1000 / float64(connections)
	}

	request := fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", addr)
	began = time.Now()
	for _, c := range clients {
		if _, err := c.stream.Write(request); err != nil {
			return nil, err
		}
	}
	events := make([]syscall.EpollEvent, connections)
	for time.Since(began) < duration {
		n, err := syscall.EpollWait(poller, events, ioTimeoutS*1000)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("epoll: %w", err)
		}
		if n == 0 {
			return nil, fmt.Errorf("no connection was answered for %d s", ioTimeoutS)
		}
		for _, event := range events[:n] {
			c := clients[event.Fd]
			if err := c.receive(body); err != nil {
				return nil, err
			}
			result.Requests++
			if _, err := c.stream.Write(request); err != nil {
				return nil, err
			}
		}
	}
	result.Seconds = time.Since(began).Seconds()
	result.RequestsPerS = float64(result.Requests) / result.Seconds
	return result, nil
}

func main() {
	address := flag.String("addr", "", "IPv4 address and port of the server")
	connections := flag.Int("connections", 16, "keep-alive connections, one request in flight on each")
	duration := flag.Duration("duration", 3*time.Second, "how long to ask")
	overTLS := flag.Bool("tls", false, "speak TLS 1.3")
	group := flag.String("group", "X25519MLKEM768", "with -tls, the key exchange every connection must negotiate; empty takes any")
	body := flag.String("body", "Hello, Enarx!", "the body of every response")
	flag.Parse()

	runtime.LockOSThread()
	addr, err := netip.ParseAddrPort(*address)
	if err == nil && !addr.Addr().Is4() {
		err = fmt.Errorf("address is %s, want IPv4", addr)
	}
	var result *report
	if err == nil {
		result, err = run(addr, *connections, *duration, *overTLS, *group, []byte(*body))
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "loadgen: %v\n", err)
		os.Exit(1)
	}
}
