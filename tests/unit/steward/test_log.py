# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import DecodeError, VerificationError
from enarx.steward.log import (
    EMPTY_ROOT,
    MAX_NOTE_BYTES,
    Checkpoint,
    Frontier,
    LogSigner,
    Tile,
    consistency_proof,
    hash_of_leaf,
    hash_of_node,
    inclusion_proof,
    parse_checkpoint_untrusted,
    parse_note_untrusted,
    parse_verifier_key_untrusted,
    root_of,
    tiles_of,
    verify_checkpoint,
    verify_consistency,
    verify_inclusion,
)

# Leaves, roots of the first n of them, and proofs, as certificate-transparency's own tests have them.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    bytes.fromhex(text)
    for text in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUSION = [
    (0, 1, []),
    (0, 8, [A, B, C]),
    (5, 8, [D, E, ROOTS[4].hex()]),
    (2, 3, [ROOTS[2].hex()]),
    (1, 5, [ROOTS[1].hex(), B, D]),
]
CONSISTENCY = [(1, 1, []), (1, 8, [A, B, C]), (6, 8, [F, E, ROOTS[4].hex()]), (2, 5, [B, D])]
# Of transparency-dev's tests: leaf i is its number in two bytes, the low one first.
LARGER = {
    10: "VjWMPSYNtCuCNlF/RLnQy6HcwSk6CIipfxm+hettA+4=",
    255: "SmdsuKUqiod3RX2jyF2M6JnbdE4QuTwwipfAowI4/i0=",
    1000: "RXrgb8xHd55Y48FbfotJwCbV82Kx22LZfEbmBGAvwlQ=",
    4095: "cWRFdQhPcjn9WyBXE/r1f04ejxIm5lvg40DEpRBVS0w=",
    10000: "VZcav65F9haHVRk3wre2axFoBXRNeUh/1d9d5FQfxIg=",
}

NOTE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
POEM = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
    "— quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)
SOFA = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNER = LogSigner("steward.example.com/log", KEY)


class Stored(dict):
    """Hashes of complete subtrees, as a database has them."""

    def __init__(self, leaves):
        super().__init__()
        self.frontier = Frontier()
        for leaf in leaves:
            for node in self.frontier.append(hash_of_leaf(leaf)):
                self[node.level, node.index] = node.hash

    def read(self, level, index):
        return self[level, index]


def plain_root(leaves):
    """Return the root as RFC 6962 section 2.1 defines it."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return hash_of_leaf(leaves[0])
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hash_of_node(plain_root(leaves[:split]), plain_root(leaves[split:]))


def numbered(size):
    return [number.to_bytes(2, "little") for number in range(size)]


def changed(proof, root):
    """Yield proofs that prove nothing."""
    yield [*proof, root]
    yield [root, *proof]
    if proof:
        yield proof[:-1]
        yield proof[1:]
    for at in range(len(proof)):
        yield [*proof[:at], bytes((proof[at][0] ^ 8, *proof[at][1:])), *proof[at + 1 :]]
        yield [*proof[:at], proof[at][:-1], *proof[at + 1 :]]


# --- The tree


def test_hashes_are_those_of_rfc_6962():
    assert hash_of_leaf(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert hash_of_leaf(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    assert hash_of_node(b"N123", b"N456").hex() == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"


@pytest.mark.parametrize("size", range(9))
def test_the_root_is_the_known_one(size):
    stored = Stored(LEAVES)
    assert Stored(LEAVES[:size]).frontier.root() == root_of(size, stored.read) == ROOTS[size]


@pytest.mark.parametrize("size", LARGER)
def test_the_root_of_a_larger_tree_is_the_known_one(size):
    assert base64.b64encode(Stored(numbered(size)).frontier.root()).decode() == LARGER[size]


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_inclusion_is_proven_as_elsewhere(index, size, proof):
    found = inclusion_proof(index, size, Stored(LEAVES).read)
    assert [each.hex() for each in found] == proof
    verify_inclusion(hash_of_leaf(LEAVES[index]), index, size, found, ROOTS[size])


@pytest.mark.parametrize(("old", "new", "proof"), CONSISTENCY)
def test_consistency_is_proven_as_elsewhere(old, new, proof):
    found = consistency_proof(old, new, Stored(LEAVES).read)
    assert [each.hex() for each in found] == proof
    verify_consistency(old, new, ROOTS[old], ROOTS[new], found)


def test_a_leaf_completes_one_subtree_more_on_average():
    frontier = Frontier()
    assert sum(len(frontier.append(bytes(32))) for _ in range(1024)) == 2 * 1024 - 1


def test_every_proof_of_every_tree_up_to_64_holds_and_no_other_does():
    leaves = numbered(64)
    stored = Stored(leaves)
    roots = [plain_root(leaves[:size]) for size in range(65)]
    for size in range(65):
        assert root_of(size, stored.read) == roots[size]
        for index in range(size):
            proof, leaf = inclusion_proof(index, size, stored.read), hash_of_leaf(leaves[index])
            verify_inclusion(leaf, index, size, proof, roots[size])
            for other in {(index + 1) % size, index ^ 1, 0} - {index}:
                with pytest.raises(VerificationError):
                    verify_inclusion(leaf, other, size, proof, roots[size])
        for old in range(size + 1):
            proof = consistency_proof(old, size, stored.read)
            verify_consistency(old, size, roots[old], roots[size], proof)
            if 0 < old < size:
                with pytest.raises(VerificationError):
                    verify_consistency(old, size, roots[old - 1], roots[size], proof)
                with pytest.raises(VerificationError):
                    verify_consistency(old, size, roots[old], roots[size - 1], proof)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13])
def test_a_changed_proof_proves_nothing(size):
    leaves = numbered(size)
    stored = Stored(leaves)
    root = stored.frontier.root()
    for index in range(size):
        for proof in changed(inclusion_proof(index, size, stored.read), root):
            with pytest.raises(VerificationError, match="inclusion"):
                verify_inclusion(hash_of_leaf(leaves[index]), index, size, proof, root)
    for old in range(size + 1):
        before = root_of(old, stored.read)
        for proof in changed(consistency_proof(old, size, stored.read), root):
            with pytest.raises(VerificationError, match="consistency"):
                verify_consistency(old, size, before, root, proof)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_larger_trees_prove_what_they_have_and_nothing_else(data):
    size = data.draw(st.integers(65, 1500))
    stored = Stored(numbered(size))
    old, index = data.draw(st.integers(0, size)), data.draw(st.integers(0, size - 1))
    root, before = stored.frontier.root(), root_of(old, stored.read)
    verify_inclusion(stored[0, index], index, size, inclusion_proof(index, size, stored.read), root)
    verify_consistency(old, size, before, root, consistency_proof(old, size, stored.read))
    other = data.draw(st.integers(0, size - 1).filter(lambda each: each != index))
    with pytest.raises(VerificationError):
        verify_inclusion(stored[0, other], index, size, inclusion_proof(index, size, stored.read), root)


def test_the_edge_goes_on_where_it_was_read():
    leaves = numbered(100)
    for size in (0, 1, 2, 63, 64, 65, 99):
        frontier = Frontier.read(size, Stored(leaves[:size]).read)
        copy = frontier.copy()
        for leaf in leaves[size:]:
            frontier.append(hash_of_leaf(leaf))
        assert frontier.root() == plain_root(leaves)
        assert (copy.size, copy.root()) == (size, plain_root(leaves[:size]))


def test_refuses_what_a_tree_has_not():
    stored = Stored(LEAVES)
    for index, size in ((8, 8), (-1, 8), (0, 0)):
        with pytest.raises(ValueError, match="leaf"):
            inclusion_proof(index, size, stored.read)
    for old, new in ((5, 4), (-1, 4)):
        with pytest.raises(ValueError, match="sizes"):
            consistency_proof(old, new, stored.read)
    with pytest.raises(ValueError, match="subtrees"):
        Frontier(3, [bytes(32)])
    with pytest.raises(VerificationError):
        verify_inclusion(ROOTS[1], 0, 0, [], ROOTS[0])
    with pytest.raises(VerificationError):
        verify_inclusion(b"WrongLeaf", 0, 1, [], b"WrongLeaf")
    with pytest.raises(VerificationError):
        verify_consistency(2, 1, ROOTS[2], ROOTS[1], [])
    with pytest.raises(VerificationError):
        verify_consistency(0, 3, ROOTS[1], ROOTS[3], [])
    with pytest.raises(VerificationError, match="two roots for one size"):
        verify_consistency(3, 3, ROOTS[2], ROOTS[3], [])


# --- Checkpoints


def test_signs_and_verifies_a_checkpoint():
    signed = SIGNER.sign(8, ROOTS[8])
    assert verify_checkpoint(signed, SIGNER.verifier_key) == Checkpoint("steward.example.com/log", 8, ROOTS[8])
    assert signed.startswith(
        "steward.example.com/log\n8\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n\n— steward.example.com/log "
    )


def test_the_key_comes_back_as_it_was():
    text = SIGNER.verifier_key.text()
    assert parse_verifier_key_untrusted(text) == SIGNER.verifier_key
    assert parse_verifier_key_untrusted(NOTE_KEY).text() == NOTE_KEY


def test_reads_the_notes_of_the_specifications():
    assert parse_note_untrusted(NOTE.encode()).text == "This is an example message.\n"
    poem = parse_note_untrusted(POEM.encode())
    assert poem.text.endswith("\n\ned è subito sera.\n")
    assert poem.signatures[0].name == "quasimodo.example/salvatore"
    sofa = parse_note_untrusted(SOFA.encode())
    found = parse_checkpoint_untrusted(sofa.text)
    assert (found.origin, found.size) == ("example.com/behind-the-sofa", 20852163)
    assert found.text() == sofa.text


def test_verifies_what_another_implementation_signed():
    # It is authentic, and no checkpoint: with another key it is refused before that.
    with pytest.raises(DecodeError, match="cannot decode the checkpoint"):
        verify_checkpoint(NOTE, parse_verifier_key_untrusted(NOTE_KEY))
    with pytest.raises(VerificationError, match="does not fit"):
        verify_checkpoint(NOTE.replace("example message", "Example message"), parse_verifier_key_untrusted(NOTE_KEY))


def test_other_signatures_do_not_matter_and_a_wrong_one_of_the_key_does():
    signed = SIGNER.sign(1, ROOTS[1])
    witness = "— witness.example/w " + base64.b64encode(b"abcd" + bytes(72)).decode() + "\n"
    assert verify_checkpoint(signed + witness, SIGNER.verifier_key).size == 1
    line = signed.rpartition("\n\n")[2]
    wrong = f"— steward.example.com/log {base64.b64encode(SIGNER.verifier_key.key_id + bytes(64)).decode()}\n"
    with pytest.raises(VerificationError, match="does not fit"):
        verify_checkpoint(signed.replace(line, line + wrong), SIGNER.verifier_key)
    with pytest.raises(VerificationError, match="no signature"):
        verify_checkpoint(signed.replace(line, witness), SIGNER.verifier_key)


def test_refuses_the_checkpoint_of_another_log_by_the_same_key():
    other = LogSigner("other.example.com/log", KEY)
    text = Checkpoint("other.example.com/log", 1, ROOTS[1]).text()
    line = base64.b64encode(SIGNER.verifier_key.key_id + KEY.sign(text.encode())).decode()
    with pytest.raises(VerificationError, match="found the log other"):
        verify_checkpoint(f"{text}\n— steward.example.com/log {line}\n", SIGNER.verifier_key)
    with pytest.raises(VerificationError, match="no signature"):
        verify_checkpoint(other.sign(1, ROOTS[1]), SIGNER.verifier_key)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no signature"),
        (b"text\n", "no signature"),
        (NOTE.encode()[:-1], "no signature"),
        (NOTE.replace("—", "--").encode(), "no signature"),
        (NOTE.replace("foo ", "foo+1 ").encode(), "no signature"),
        (NOTE.replace("aQM=", "aQN=").encode(), "no signature"),
        (NOTE.replace("example message", "example\tmessage").encode(), "control"),
        (NOTE.encode() + b"\xff", "UTF-8"),
        (b"a" * MAX_NOTE_BYTES + NOTE.encode(), "bytes"),
        ((NOTE + NOTE.rpartition("\n\n")[2] * 64).encode(), "65 signatures"),
    ],
)
def test_refuses_what_is_no_note(data, why):
    with pytest.raises(DecodeError, match=why):
        parse_note_untrusted(data)


GOOD = Checkpoint("a", 1, ROOTS[1]).text()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "lines"),
        (GOOD[:-1], "lines"),
        (GOOD + "extension\n", "lines"),
        (GOOD.replace("a\n1", "a b\n1"), "origin"),
        (GOOD.replace("a\n1", "\n1"), "origin"),
        (GOOD.replace("a\n1", "a\n01"), "size"),
        (GOOD.replace("a\n1", "a\n-1"), "size"),
        (GOOD.replace("a\n1", "a\n9223372036854775808"), "size"),
        (GOOD.replace("a\n1", "a\n\u0661"), "size"),
        (GOOD.replace("=", ""), "root"),
        (GOOD.replace("a\n1", "a\n0"), "root of no entries"),
    ],
)
def test_refuses_what_is_no_checkpoint(text, why):
    assert parse_checkpoint_untrusted(GOOD).size == 1
    with pytest.raises(DecodeError, match=why):
        parse_checkpoint_untrusted(text)


@pytest.mark.parametrize(
    "text",
    ["", "a+b", NOTE_KEY + "=", NOTE_KEY.replace("530d", "530e"), NOTE_KEY.replace("+Aek", "+Bek"), "é b" + NOTE_KEY],
)
def test_refuses_what_is_no_key(text):
    with pytest.raises(DecodeError, match="the log's key"):
        parse_verifier_key_untrusted(text)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb"])
def test_refuses_an_origin_that_is_no_name(origin):
    with pytest.raises(ValueError, match="origin"):
        LogSigner(origin, KEY)


# --- Tiles


def test_tiles_are_those_of_the_specification():
    tiles = list(tiles_of(70_000))
    assert len([tile for tile in tiles if tile.level == 0 and tile.width == 256]) == 273
    assert [tile for tile in tiles if tile.width < 256 or tile.level] == [
        Tile(0, 273, 112),
        Tile(1, 0, 256),
        Tile(1, 1, 17),
        Tile(2, 0, 1),
    ]
    assert list(tiles_of(256)) == [Tile(0, 0, 256), Tile(1, 0, 1)]
    assert list(tiles_of(0)) == []


def test_a_tile_is_where_the_specification_says():
    assert Tile(0, 1234067, 256).path() == "tile/0/x001/x234/067"
    assert Tile(0, 273, 112).path() == "tile/0/273.p/112"
    assert Tile(0, 1000, 112).entries_path() == "tile/entries/x001/000.p/112"


def test_the_hashes_of_a_tile_are_stored_ones():
    stored = Stored(numbered(600))
    for tile in tiles_of(600):
        for level, index in tile.nodes():
            first = index << level
            assert stored[level, index] == plain_root(numbered(600)[first : first + (1 << level)])
