// SPDX-License-Identifier: Apache-2.0

package main

import "crypto/sha256"

type hash = [sha256.Size]byte

// tree is the Merkle tree of RFC 6962 (and RFC 9162), section 2.1, over a list of leaves that only grows.
// levels[k][i] is the hash of the complete subtree over the leaves from i<<k to (i+1)<<k.
type tree struct{ levels [][]hash }

func leafHash(entry []byte) hash { return sha256.Sum256(append([]byte{0}, entry...)) }

func nodeHash(left, right hash) hash {
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

func (t *tree) size() int {
	if len(t.levels) == 0 {
		return 0
	}
	return len(t.levels[0])
}

func (t *tree) add(leaf hash) {
	for level := 0; ; level++ {
		if level == len(t.levels) {
			t.levels = append(t.levels, nil)
		}
		t.levels[level] = append(t.levels[level], leaf)
		row := t.levels[level]
		if len(row)%2 == 1 {
			return
		}
		leaf = nodeHash(row[len(row)-2], row[len(row)-1])
	}
}

// split returns the largest power of two below n, and which one it is; n is at least 2.
func split(n int) (k, level int) {
	for k = 1; k*2 < n; k *= 2 {
		level++
	}
	return k, level
}

// root returns MTH(D[start:end]). Where RFC 6962 asks for it, start is a multiple of the subtree's size.
func (t *tree) root(start, end int) hash {
	switch n := end - start; n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return t.levels[0][start]
	default:
		k, level := split(n)
		if n == 2*k {
			return t.levels[level+1][start/n]
		}
		return nodeHash(t.root(start, start+k), t.root(start+k, end))
	}
}

// inclusion returns PATH(index, D[start:end]).
func (t *tree) inclusion(index, start, end int) []hash {
	if end-start == 1 {
		return []hash{}
	}
	k, _ := split(end - start)
	if index < start+k {
		return append(t.inclusion(index, start, start+k), t.root(start+k, end))
	}
	return append(t.inclusion(index, start+k, end), t.root(start, start+k))
}

// consistency returns PROOF(from, D[:to]); from is at least 1 and at most to.
func (t *tree) consistency(from, to int) []hash { return t.subproof(from, 0, to, true) }

// subproof returns SUBPROOF(from-start, D[start:end], whole); `whole` says that the verifier knows this subtree's old root.
func (t *tree) subproof(from, start, end int, whole bool) []hash {
	if from == end {
		if whole {
			return []hash{}
		}
		return []hash{t.root(start, end)}
	}
	k, _ := split(end - start)
	if from <= start+k {
		return append(t.subproof(from, start, start+k, whole), t.root(start+k, end))
	}
	return append(t.subproof(from, start+k, end, false), t.root(start, start+k))
}
