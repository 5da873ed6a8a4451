# SPDX-License-Identifier: Apache-2.0
"""Vendor byte layouts: parse, serialise, and what must be zero.

Runs: everywhere. Trusted by: the verifier, which believes none of it before it has checked the signatures.

Functions that end in `_untrusted` take foreign bytes; they return claims or raise DecodeError, for any input. Nothing here
checks a signature, knows a trust anchor or has an opinion.
"""
