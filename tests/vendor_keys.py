# SPDX-License-Identifier: Apache-2.0
"""Keys for the vendors that tests make up, of the size that AMD's have, made once in a checkout and kept in its build folder.

One takes half a second, and every process of every run wants some. Each process is given them in the same order, and no key twice.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from enarx.emulator import pki
from enarx.user_files import write_whole

FOLDER = Path(__file__).parents[1] / "build" / "test-keys"
MOST = 24
"""That are kept; those after them are made each time."""


def use() -> None:
    """Have this process take its keys from here. What imported `make_vendor_key` before makes its own."""
    make, numbers, process = pki.make_vendor_key, itertools.count(), os.getpid()

    def next_key() -> RSAPrivateKey:
        # A fork would be given what others are given, too.
        if os.getpid() == process and (number := next(numbers)) < MOST:
            return _kept(FOLDER / f"{number}.der", make)
        return make()

    pki.make_vendor_key = next_key


def _kept(path: Path, make: Callable[[], RSAPrivateKey]) -> RSAPrivateKey:
    try:
        # Nobody else writes there, so nobody has changed it.
        return load_der_private_key(path.read_bytes(), None, unsafe_skip_rsa_key_validation=True)
    except FileNotFoundError:
        key = make()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    # Another process may be making its own.
    write_whole(str(path), data, temporary=f"{path}.{os.getpid()}", is_durable=False)
    return key
