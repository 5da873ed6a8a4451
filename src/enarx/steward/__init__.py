# SPDX-License-Identifier: Apache-2.0
"""Certificates for Keeps, and attestation results for everyone else.

Runs: the Steward's operator. Trusted by: whoever chose its root, or its key for results. It has a signing key and a log of every decision;
what is accepted is its operator's policy.
"""
