"""What every row type of central's database is."""

from __future__ import annotations

from typing import TypeVar


class Row:
    """One row of one table."""

    __slots__ = ()


R = TypeVar("R", bound=Row)
