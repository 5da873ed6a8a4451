# SPDX-License-Identifier: Apache-2.0
"""Every message, release and file list there can be, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from enarx.wire import release as r
from enarx.wire import session as s

UINT = st.integers(0, (1 << 64) - 1)
WORDS = st.text(max_size=40)
BYTES32, BYTES48 = st.binary(min_size=32, max_size=32), st.binary(min_size=48, max_size=48)
CMW = st.binary(min_size=1, max_size=80)
LINE = st.text(min_size=1, max_size=80)
BACKENDS = st.sampled_from(["snp", "tdx", "cca", "sgx", "nitro", "vm", "nil"])
IMAGES = st.builds(s.Image, WORDS, WORDS, BACKENDS)
LIMITS = st.builds(s.Limits, UINT, UINT, UINT)
ENDORSEMENTS = st.lists(CMW, max_size=8).map(tuple)
IDENTITIES = st.builds(r.Identity, BYTES32, BYTES32, BYTES32, st.booleans(), BYTES48)
OFFERS = st.builds(s.Offer, st.binary(min_size=1216, max_size=1216), IMAGES, LIMITS, ENDORSEMENTS, CMW)
ATTACHMENTS = st.builds(s.Attachment, UINT, UINT, IMAGES, LIMITS, ENDORSEMENTS, CMW)
RECEIPTS = st.builds(s.Receipt, IDENTITIES.map(r.encode_identity), LIMITS, ENDORSEMENTS, CMW)
CHALLENGES = st.builds(
    s.Challenge, BYTES32, st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=16).map(tuple)
)
FAILURES = st.builds(s.ExitFailure, st.integers(102, 109), LINE, st.none() | LINE)

TENANT_MESSAGES = st.one_of(
    CHALLENGES,
    st.builds(s.Refuse, st.sampled_from(["decode", "verification", "appraisal", "endorsement", "usage"])),
    st.builds(s.Provision, st.binary(min_size=1137, max_size=1500)),
    st.builds(s.Attach, UINT),
    st.builds(s.Stdin, st.binary(max_size=300)),
    st.builds(s.Signal, st.sampled_from([2, 15])),
    st.builds(s.Stop, st.integers(0, 600_000)),
    st.just(s.Detach()),
)
KEEP_MESSAGES = st.one_of(
    OFFERS,
    ATTACHMENTS,
    RECEIPTS,
    st.builds(s.Window, UINT),
    st.builds(s.Output, st.sampled_from(["stdout", "stderr"]), UINT, st.binary(min_size=1, max_size=300)),
    st.builds(s.Stats, UINT, UINT, UINT),
    st.builds(s.Exit, st.integers(0, 255), st.none() | FAILURES, st.none() | LINE, st.none() | LINE),
    st.builds(s.Failure, st.integers(103, 109), LINE),
)

CONTENTS = st.builds(r.Content, BYTES32, UINT)
MANIFESTS = st.builds(r.Manifest, CONTENTS, st.none() | CONTENTS)
LAYERS = st.builds(r.Layer, st.binary(min_size=16, max_size=16), BYTES32)
BLOBS = st.builds(r.Blob, BYTES32, BYTES32, UINT, BYTES32, UINT, st.none() | LAYERS)
LISTENS = st.builds(r.ListenOverride, WORDS, st.sampled_from(["tls", "tcp"]), st.integers(0, 65535))
PEERS = st.builds(r.PeerOverride, BYTES32, st.none() | BYTES48)
LIMIT_NAMES = ("memory-bytes", "timeout-ms", "fuel", "output-bytes", "open-files")
CONFIGURATIONS = st.builds(
    r.Configuration,
    st.none() | st.lists(WORDS, max_size=3).map(tuple),
    st.none() | st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3).map(tuple),
    st.none() | st.lists(LISTENS, min_size=1, max_size=3).map(tuple),
    st.none() | st.dictionaries(st.sampled_from(LIMIT_NAMES), UINT),
    st.none() | BYTES32,
    st.none() | st.lists(PEERS, min_size=1, max_size=3).map(tuple),
)
RELEASES = st.builds(
    r.Release,
    MANIFESTS.map(r.encode_manifest),
    st.fixed_dictionaries({"main.wasm": BLOBS}, optional={"Enarx.toml": BLOBS, "files": BLOBS}),
    CONFIGURATIONS,
    UINT,
    BYTES32,
    st.none() | st.builds(r.Steward, LINE, CMW),
)
_NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in {".", ".."}
)
ENTRIES = st.builds(r.Entry, st.lists(_NAMES, min_size=1, max_size=4).map(tuple), st.none() | st.binary(max_size=60))
FILES = st.builds(
    r.TravellingFiles,
    st.lists(st.builds(r.Directory, WORDS, st.booleans(), st.lists(ENTRIES, max_size=4).map(tuple)), max_size=3).map(
        tuple
    ),
    st.dictionaries(WORDS, st.binary(max_size=60), max_size=2),
)
