// SPDX-License-Identifier: Apache-2.0

// Command http serves net/http on the preopened listener that FD_NAMES calls "listen", else on descriptor 3.
// It prints "ready" once it serves. GET /headers shows the request's header names, POST /echo returns the body.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
)

func listenFd() uintptr {
	for fd, name := range strings.Split(os.Getenv("FD_NAMES"), ":") {
		if name == "listen" {
			return uintptr(fd)
		}
	}
	return 3
}

func serve() error {
	file := os.NewFile(listenFd(), "listen")
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	// net.FileListener has its own copy of the descriptor.
	_ = file.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "Hello, Enarx!")
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		// All of it first: this server stops reading a body once the answer has begun.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = w.Write(body)
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		names := make([]string, 0, len(r.Header))
		for name := range r.Header {
			names = append(names, name)
		}
		sort.Strings(names)
		_, _ = fmt.Fprintln(w, strings.Join(names, "\n"))
	})
	fmt.Println("ready")
	return http.Serve(listener, mux)
}

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
