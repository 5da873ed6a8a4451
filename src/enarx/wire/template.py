# SPDX-License-Identifier: Apache-2.0
"""The Enarx.toml that `enarx config init` writes.

What is not commented out says what the original's template says: standard input, output and error. The rest shows every
other key once, as a comment that works when it is uncommented.
"""

from __future__ import annotations

__all__ = ["ENARX_TOML_TEMPLATE"]

ENARX_TOML_TEMPLATE = """\
## What a WebAssembly application gets when it runs in a Keep.
## Two hashes explain; one hash is a setting to uncomment.
## Keep this order: TOML takes every line below a [header] as part of it.

## Arguments of the application, after its own name.
# args = ["--verbose", "input.txt"]

## The Steward that gives the Keep its certificate. Without one, the Keep signs its own.
# steward = "https://steward.example.com"

## Where the application may connect, by name or address and port. Without this line: only to what the
## "connect" entries below name.
# allow_connect = ["api.example.com:443", "*.example.org:443", "10.0.0.0/8:5432"]

## Environment variables.
# [env]
# LOG_LEVEL = "info"

## Open files. The first entry is file descriptor 0, the next one 1, and so on.
[[files]]
kind = "stdin"

[[files]]
kind = "stdout"

[[files]]
kind = "stderr"

## A socket that waits for connections. The Keep speaks TLS, the application sees plain bytes.
# [[files]]
# kind = "listen"
# name = "web"
# prot = "tls" # the default; "tcp" is not encrypted
# addr = "::" # the default: every interface
# port = 8443 # default: 443, or 80 for "tcp"

## A socket that is connected before the application starts.
# [[files]]
# kind = "connect"
# name = "database"
# prot = "tls"
# host = "db.example.com"
# port = 5433

## A directory of this machine, and the path at which the application sees it. Relative to this file.
# [[dirs]]
# host = "data"
# guest = "/data"
# read_only = true # default: false

## How much the application may use.
# [limits]
# memory = "512 MiB"
# timeout = "10m"
# fuel = 1000000000
# output = "10 MiB"
# open_files = 64

## What "tls" sockets present, and whom they believe. PEM files, relative to this file.
# [tls]
# certificate = "server.pem"
# private_key = "server.key"
# client_auth = "required" # or "optional"; default: "none"
# trust_anchors = ["ca.pem"] # default: the public roots; for clients, the Steward's
## Or, instead of files and with a Steward, who may be there: peers = [{ package = "SHA-256", tenant = "any" }]
"""
