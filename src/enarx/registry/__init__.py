# SPDX-License-Identifier: Apache-2.0
"""Packages where they are stored and while they travel: OCI layouts, archives of them, registries, signatures, encryption.

Runs: tenant; `client` in a host too, for what a Keep takes from a registry. Trusted by: the tenant, of its own packages. A registry is
trusted for nothing: whatever comes from one is held against the digest it was asked for, has limits, and is read in bounded time.
Nothing of this is in a Keep.

- `content` says what a source and a sink of packages are; `layout`, `archive` and `client` are such.
- `building` makes a package, `opening` makes a folder of one.
- `encryption` encrypts and decrypts layers, for those of whom `recipients` and `recipient_keys` know the keys.
"""
