# SPDX-License-Identifier: Apache-2.0
"""What the steps make tables with."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

__all__ = ["make_typed"]


def make_typed(name: str, *columns: sa.Column[Any], unique: str | None = None) -> None:
    """Make a table whose columns hold values of their types; SQLite would take others.

    Args:
        name: of the table.
        columns: of it.
        unique: the column in which each value is there once, beside the primary key.
    """
    rules: list[sa.Constraint] = [] if unique is None else [sa.UniqueConstraint(unique, name=f"{name}_{unique}_once")]
    if op.get_bind().dialect.name == "sqlite":
        for column in columns:
            kind = {sa.LargeBinary: "blob", sa.Text: "text"}.get(type(column.type), "integer")
            kinds = f"'{kind}', 'null'" if column.nullable else f"'{kind}'"
            rules.append(sa.CheckConstraint(f'typeof("{column.name}") IN ({kinds})', name=f"{name}_{column.name}_type"))
    op.create_table(name, *columns, *rules)
