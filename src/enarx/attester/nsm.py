# SPDX-License-Identifier: Apache-2.0
"""/dev/nsm: attestation documents of AWS Nitro, by an ioctl that carries CBOR.

The report data goes into the document's `nonce`, which is what the verifier compares. The kernel waits two minutes for an answer.

Source: Linux include/uapi/linux/nsm.h, drivers/misc/nsm.c; aws-nitro-enclaves-nsm-api, src/api.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Any

from enarx.attester.attested import NITRO_DOCUMENT, Attested, RuntimeRegister, make_evidence, require_report_data
from enarx.attester.system import exists, iowr, refusal
from enarx.crypto.cbor import decode_untrusted, encode
from enarx.errors import DecodeError, PlatformError

if TYPE_CHECKING:
    from enarx.attester.system import System

__all__ = ["NsmAttester", "NsmMessage", "Vector", "find_nsm"]

DEVICE = "/dev/nsm"
MAX_RESPONSE_BYTES = 0x3000


class Vector(ctypes.Structure):
    """struct nsm_iovec."""

    _fields_ = (("addr", ctypes.c_uint64), ("len", ctypes.c_uint64))


class NsmMessage(ctypes.Structure):
    """struct nsm_raw."""

    _fields_ = (("request", Vector), ("response", Vector))


NSM_IOCTL_RAW = iowr(0x0A, 0, ctypes.sizeof(NsmMessage))

_MEANINGS: dict[int, tuple[str, str | None]] = {
    errno.ETIMEDOUT: ("no answer in two minutes", None),
    errno.EMSGSIZE: ("a request that is too long", None),
}


class NsmAttester:
    """A Nitro Security Module.

    Args:
        system: of the machine.
    """

    backend = "nitro"
    media_type = NITRO_DOCUMENT
    register: RuntimeRegister | None = None

    def __init__(self, system: System) -> None:
        self._system = system

    def attest(self, report_data: bytes) -> Attested:
        """Ask for a document; see `enarx.attester.Attester`."""
        require_report_data(report_data)
        answer = self._call({"Attestation": {"user_data": None, "nonce": report_data, "public_key": None}})
        match answer:
            case {"Attestation": {"document": bytes(document)}} if document:
                return Attested(make_evidence(NITRO_DOCUMENT, document))
            case {"Error": str(reason)}:
                raise PlatformError(f"cannot attest: {DEVICE}: found the error {reason[:64]!r}, want a document")
        raise DecodeError(f"cannot attest: {DEVICE}: found another answer, want a document")

    def _call(self, request: dict[str, Any]) -> Any:
        """Send a request, and return the decoded answer."""
        sent = encode(request)
        outgoing = ctypes.create_string_buffer(sent, len(sent))
        incoming = ctypes.create_string_buffer(MAX_RESPONSE_BYTES)
        message = NsmMessage(
            request=Vector(ctypes.addressof(outgoing), len(sent)),
            response=Vector(ctypes.addressof(incoming), MAX_RESPONSE_BYTES),
        )
        try:
            fd = self._system.open(DEVICE, os.O_RDWR)
            try:
                self._system.ioctl(fd, NSM_IOCTL_RAW, message)
            finally:
                self._system.close(fd)
        except OSError as error:
            raise refusal(DEVICE, error, _MEANINGS) from error
        size = message.response.len
        if not 0 < size <= MAX_RESPONSE_BYTES:
            raise PlatformError(f"cannot attest: {DEVICE}: found {size} bytes, want 1 to {MAX_RESPONSE_BYTES}")
        # The module's own library writes maps without a length.
        return decode_untrusted(incoming.raw[:size], max_bytes=MAX_RESPONSE_BYTES, what=DEVICE, indefinite=True)


def find_nsm(system: System) -> NsmAttester | None:
    """Return the module behind the device, or None where it is not there."""
    return NsmAttester(system) if exists(system, DEVICE) else None
