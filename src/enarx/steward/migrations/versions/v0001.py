# SPDX-License-Identifier: Apache-2.0
"""The tables of the first release."""

from __future__ import annotations

import sqlalchemy as sa

from enarx.steward.migrations.columns import make_typed

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them."""
    make_typed(
        "entries",
        sa.Column("index", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("leaf", sa.LargeBinary, nullable=False),
        sa.Column("nonce", sa.LargeBinary, nullable=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        unique="nonce",
    )
    make_typed(
        "hashes",
        sa.Column("level", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("index", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    make_typed(
        "certificates",
        sa.Column("serial", sa.LargeBinary, primary_key=True),
        sa.Column("entry", sa.BigInteger, sa.ForeignKey("entries.index"), nullable=False, unique=True),
        sa.Column("not_after_ms", sa.BigInteger, nullable=False, index=True),
        sa.Column("evidence", sa.LargeBinary, nullable=False),
        sa.Column("endorsements", sa.LargeBinary, nullable=False),
        sa.Column("receipt", sa.LargeBinary, nullable=False),
        sa.Column("spki", sa.LargeBinary, nullable=False),
        sa.Column("report_data", sa.LargeBinary, nullable=False),
        sa.Column("revoked_by", sa.BigInteger, sa.ForeignKey("entries.index"), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
    )
    make_typed(
        "checkpoints",
        sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("text", sa.Text, nullable=False),
    )
