# SPDX-License-Identifier: Apache-2.0
"""The tables of the first release."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _typed(name: str, *columns: sa.Column[Any], unique: str | None = None) -> None:
    """Make a table whose columns hold values of their types; SQLite would take others."""
    rules: list[sa.Constraint] = [] if unique is None else [sa.UniqueConstraint(unique, name=f"{name}_{unique}_once")]
    if op.get_bind().dialect.name == "sqlite":
        for column in columns:
            kind = {sa.LargeBinary: "blob", sa.Text: "text"}.get(type(column.type), "integer")
            kinds = f"'{kind}', 'null'" if column.nullable else f"'{kind}'"
            rules.append(sa.CheckConstraint(f'typeof("{column.name}") IN ({kinds})', name=f"{name}_{column.name}_type"))
    op.create_table(name, *columns, *rules)


def upgrade() -> None:
    """Make them."""
    _typed(
        "entries",
        sa.Column("index", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("leaf", sa.LargeBinary, nullable=False),
        sa.Column("nonce", sa.LargeBinary, nullable=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        unique="nonce",
    )
    _typed(
        "hashes",
        sa.Column("level", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("index", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    _typed(
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
    _typed(
        "checkpoints",
        sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("text", sa.Text, nullable=False),
    )
