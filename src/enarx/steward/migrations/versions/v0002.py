# SPDX-License-Identifier: Apache-2.0
"""Endorsements once, and not with each certificate: of one platform they are the same for months, and most of what was kept."""

from __future__ import annotations

from hashlib import sha256

import sqlalchemy as sa
from alembic import op

from enarx.steward.migrations.columns import make_typed

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_FEW = 64
"""Certificates that are looked at together."""


def upgrade() -> None:
    """Move them, a few certificates at a time; what a certificate keeps is their digest."""
    make_typed(
        "endorsements",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("list", sa.LargeBinary, nullable=False),
    )
    connection = op.get_bind()
    known: set[bytes] = set()
    after = b""
    wanted = sa.text("SELECT serial, endorsements FROM certificates WHERE serial > :after ORDER BY serial LIMIT :few")
    while rows := connection.execute(wanted, {"after": after, "few": _FEW}).all():
        for serial, endorsements in rows:
            if not isinstance(endorsements, bytes):
                # Somebody wrote it there; an audit names it.
                continue
            digest = sha256(endorsements).digest()
            if digest not in known:
                known.add(digest)
                connection.execute(
                    sa.text("INSERT INTO endorsements (digest, list) VALUES (:digest, :list)"),
                    {"digest": digest, "list": endorsements},
                )
            connection.execute(
                sa.text("UPDATE certificates SET endorsements = :digest WHERE serial = :serial"),
                {"digest": digest, "serial": serial},
            )
        after = rows[-1].serial
