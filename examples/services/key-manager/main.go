// SPDX-License-Identifier: Apache-2.0

// Command key-manager makes signing keys and signs with them; no request gives a private key back.
// It serves HTTP on the preopened listener that FD_NAMES calls "web", and knows nothing of Keeps or TLS.
package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const maxMessageBytes = 64 << 10

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	allowed, err := hex.DecodeString(os.Getenv("TOKEN_SHA256"))
	if err != nil || len(allowed) != sha256.Size {
		return errors.New("TOKEN_SHA256: want the SHA-256 of the callers' token, 64 hex digits")
	}
	listener, err := listen("web")
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           withToken(allowed, routes(&store{keys: map[string]key{}})),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    8 << 10,
	}
	fmt.Println("ready")
	return server.Serve(listener)
}

// listen returns the socket that Enarx.toml calls by this name.
func listen(wanted string) (net.Listener, error) {
	for fd, name := range strings.Split(os.Getenv("FD_NAMES"), ":") {
		if name == wanted {
			file := os.NewFile(uintptr(fd), name)
			defer file.Close() // net.FileListener has its own copy.
			return net.FileListener(file)
		}
	}
	return nil, fmt.Errorf("FD_NAMES: found no %q", wanted)
}

// withToken lets those requests pass that bring the token with this digest.
func withToken(allowed []byte, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		digest := sha256.Sum256([]byte(token))
		if !found || subtle.ConstantTimeCompare(digest[:], allowed) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(w, http.StatusUnauthorized, "want the token: Authorization: Bearer TOKEN")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func routes(keys *store) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /keys", func(w http.ResponseWriter, r *http.Request) {
		body, ok := read(w, r, 1<<10)
		if !ok {
			return
		}
		var asked struct{ Kind string }
		if err := json.Unmarshal(body, &asked); err != nil {
			refuse(w, http.StatusBadRequest, `want {"kind": "p256"} or {"kind": "ed25519"}`)
			return
		}
		made, err := keys.make(asked.Kind)
		if err != nil {
			fail(w, err)
			return
		}
		answer(w, http.StatusCreated, made)
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string][]public{"keys": keys.list()})
	})
	mux.HandleFunc("GET /keys/{id}", func(w http.ResponseWriter, r *http.Request) {
		found, err := keys.get(r.PathValue("id"))
		if err != nil {
			fail(w, err)
			return
		}
		answer(w, http.StatusOK, found.public)
	})
	mux.HandleFunc("DELETE /keys/{id}", func(w http.ResponseWriter, r *http.Request) {
		if err := keys.remove(r.PathValue("id")); err != nil {
			fail(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	sign := func(isDigest bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			found, err := keys.get(r.PathValue("id"))
			if err != nil {
				fail(w, err)
				return
			}
			message, ok := read(w, r, maxMessageBytes)
			if !ok {
				return
			}
			signature, err := found.sign(message, isDigest)
			if err != nil {
				fail(w, err)
				return
			}
			answer(w, http.StatusOK, map[string][]byte{"signature": signature})
		}
	}
	mux.HandleFunc("POST /keys/{id}/sign", sign(false))
	mux.HandleFunc("POST /keys/{id}/sign-digest", sign(true))
	return mux
}

// read returns the whole body, or answers that it is too large.
func read(w http.ResponseWriter, r *http.Request, maxBytes int64) ([]byte, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBytes))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("want at most %d bytes", maxBytes))
	case err != nil:
		refuse(w, http.StatusBadRequest, "the body ended early")
	}
	return body, err == nil
}

func fail(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, errNoKey):
		refuse(w, http.StatusNotFound, err.Error())
	case errors.Is(err, errFull):
		refuse(w, http.StatusInsufficientStorage, err.Error())
	default:
		refuse(w, http.StatusBadRequest, err.Error())
	}
}

func refuse(w http.ResponseWriter, status int, why string) {
	answer(w, status, map[string]string{"error": why})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
