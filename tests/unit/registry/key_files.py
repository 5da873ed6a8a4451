# SPDX-License-Identifier: Apache-2.0
"""Keys of recipients as tests have them, and files with them."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


def private_pem(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def public_pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def write(path, data, mode=0o600):
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)
