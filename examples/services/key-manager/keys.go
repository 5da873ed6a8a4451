// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"sort"
	"sync"
)

const maxKeys = 64

var (
	errNoKey  = errors.New("no such key")
	errFull   = errors.New("no room for another key: delete one")
	errKind   = errors.New(`kind: want "p256" or "ed25519"`)
	errDigest = errors.New("want the 32 bytes of a SHA-256 digest, and a key of kind p256")
)

// public is all that is ever said of a key.
type public struct {
	ID   string `json:"id"`
	Kind string `json:"kind"`
	PEM  string `json:"public_key"`
}

// key holds the private key behind an interface that can do nothing but sign.
type key struct {
	public
	signer crypto.Signer
}

// sign signs a message: with ECDSA its SHA-256, with Ed25519 itself. A digest is signed as it is, by ECDSA alone.
func (k key) sign(message []byte, isDigest bool) ([]byte, error) {
	if k.Kind == "ed25519" {
		if isDigest {
			return nil, errDigest
		}
		return k.signer.Sign(rand.Reader, message, crypto.Hash(0))
	}
	if !isDigest {
		digest := sha256.Sum256(message)
		message = digest[:]
	} else if len(message) != sha256.Size {
		return nil, errDigest
	}
	return k.signer.Sign(rand.Reader, message, crypto.SHA256)
}

// store has the keys, in memory and nowhere else.
type store struct {
	mutex sync.Mutex
	keys  map[string]key
}

func (s *store) make(kind string) (public, error) {
	signer, err := generate(kind)
	if err != nil {
		return public{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return public{}, err
	}
	digest := sha256.Sum256(der)
	made := key{signer: signer, public: public{
		ID:   hex.EncodeToString(digest[:16]), // of the public key, so it names no other
		Kind: kind,
		PEM:  string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	}}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.keys) >= maxKeys {
		return public{}, errFull
	}
	s.keys[made.ID] = made
	return made.public, nil
}

// generate makes a key of the random numbers of the Keep: crypto/rand reads random_get of WASI.
func generate(kind string) (crypto.Signer, error) {
	switch kind {
	case "p256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ed25519":
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}
	return nil, errKind
}

func (s *store) get(id string) (key, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	found, ok := s.keys[id]
	if !ok {
		return key{}, errNoKey
	}
	return found, nil
}

func (s *store) remove(id string) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if _, ok := s.keys[id]; !ok {
		return errNoKey
	}
	delete(s.keys, id)
	return nil
}

func (s *store) list() []public {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	found := make([]public, 0, len(s.keys))
	for _, each := range s.keys {
		found = append(found, each.public)
	}
	sort.Slice(found, func(a, b int) bool { return found[a].ID < found[b].ID })
	return found
}
