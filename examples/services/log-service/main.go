// SPDX-License-Identifier: Apache-2.0

// Command log-service keeps a log to which entries are added, and from which none can be taken or changed unnoticed.
// It serves HTTP on the preopened listener that FD_NAMES calls "web", and knows nothing of Keeps or TLS.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxEntryBytes = 16 << 10
	maxEntries    = 100_000
	maxTotalBytes = 64 << 20
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	allowed, err := hex.DecodeString(os.Getenv("TOKEN_SHA256"))
	if err != nil || len(allowed) != sha256.Size {
		return errors.New("TOKEN_SHA256: want the SHA-256 of the writers' token, 64 hex digits")
	}
	listener, err := listen("web")
	if err != nil {
		return err
	}
	log, err := newLog()
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           routes(log, allowed),
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

// entryLog has the entries and their tree, in memory and nowhere else, and the key that signs its heads.
type entryLog struct {
	mutex     sync.RWMutex
	entries   [][]byte
	bytes     int
	tree      tree
	signer    ed25519.PrivateKey
	publicPEM []byte
}

// head is what the log commits itself to: how many entries there are, and the root of their tree.
type head struct {
	Size      int    `json:"size"`
	Root      []byte `json:"root"`
	Signature []byte `json:"signature"`
}

func newLog() (*entryLog, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	return &entryLog{signer: private, publicPEM: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}, nil
}

// head signs the log as it is now; who calls holds the lock.
func (l *entryLog) head() head {
	size := len(l.entries)
	root := l.tree.root(0, size)
	said := fmt.Sprintf("log-service head\n%d\n%s\n", size, base64.StdEncoding.EncodeToString(root[:]))
	return head{Size: size, Root: root[:], Signature: ed25519.Sign(l.signer, []byte(said))}
}

var errFull = errors.New("the log is full")

// added is what whoever appends is told.
type added struct {
	Index int      `json:"index"`
	Head  head     `json:"head"`
	Proof [][]byte `json:"proof"`
}

func (l *entryLog) append(entry []byte) (added, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if len(l.entries) >= maxEntries || l.bytes+len(entry) > maxTotalBytes {
		return added{}, errFull
	}
	index := len(l.entries)
	l.entries = append(l.entries, bytes.Clone(entry)) // what was read has room to spare
	l.bytes += len(entry)
	l.tree.add(leafHash(entry))
	return added{Index: index, Head: l.head(), Proof: asBytes(l.tree.inclusion(index, 0, index+1))}, nil
}

func routes(log *entryLog, allowed []byte) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /entries", func(w http.ResponseWriter, r *http.Request) {
		token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		digest := sha256.Sum256([]byte(token))
		if !found || subtle.ConstantTimeCompare(digest[:], allowed) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(w, http.StatusUnauthorized, "want the token: Authorization: Bearer TOKEN")
			return
		}
		entry, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEntryBytes))
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("want at most %d bytes", maxEntryBytes))
			return
		}
		if err != nil {
			refuse(w, http.StatusBadRequest, "the body ended early")
			return
		}
		told, err := log.append(entry)
		if err != nil {
			refuse(w, http.StatusInsufficientStorage, err.Error())
			return
		}
		answer(w, http.StatusCreated, told)
	})
	mux.HandleFunc("GET /key", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(log.publicPEM)
	})
	reading := func(pattern string, handle func(w http.ResponseWriter, r *http.Request)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			log.mutex.RLock()
			defer log.mutex.RUnlock()
			handle(w, r)
		})
	}
	reading("GET /head", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, log.head())
	})
	reading("GET /entries/{index}", func(w http.ResponseWriter, r *http.Request) {
		index, ok := number(r.PathValue("index"), 0, len(log.entries)-1)
		if !ok {
			refuse(w, http.StatusNotFound, "no such entry")
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(log.entries[index])
	})
	reading("GET /proof/inclusion", func(w http.ResponseWriter, r *http.Request) {
		size, sized := number(r.FormValue("size"), 1, len(log.entries))
		index, ok := number(r.FormValue("index"), 0, size-1)
		if !sized || !ok {
			refuse(w, http.StatusBadRequest, "want index=INDEX&size=SIZE, with INDEX below SIZE, and SIZE at most the log's")
			return
		}
		proof := log.tree.inclusion(index, 0, size)
		answer(w, http.StatusOK, map[string]any{"index": index, "size": size, "proof": asBytes(proof)})
	})
	reading("GET /proof/consistency", func(w http.ResponseWriter, r *http.Request) {
		to, ended := number(r.FormValue("to"), 1, len(log.entries))
		from, ok := number(r.FormValue("from"), 1, to)
		if !ended || !ok {
			refuse(w, http.StatusBadRequest, "want from=SIZE&to=SIZE, at least 1, in this order, and at most the log's")
			return
		}
		answer(w, http.StatusOK, map[string]any{"from": from, "to": to, "proof": asBytes(log.tree.consistency(from, to))})
	})
	return mux
}

func number(text string, least, most int) (int, bool) {
	found, err := strconv.Atoi(text)
	return found, err == nil && least <= found && found <= most
}

// asBytes turns hashes into what JSON writes in base64.
func asBytes(hashes []hash) [][]byte {
	found := make([][]byte, len(hashes))
	for at := range hashes {
		found[at] = hashes[at][:]
	}
	return found
}

func refuse(w http.ResponseWriter, status int, why string) {
	answer(w, status, map[string]string{"error": why})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
