# SPDX-License-Identifier: Apache-2.0
"""What the models of every API of ours have in common: names with hyphens in JSON, nothing that is not named, no conversions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["ApiModel"]


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


class ApiModel(BaseModel):
    """A frozen model, strict in types and members."""

    model_config = ConfigDict(
        alias_generator=_hyphens,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        strict=True,
    )
