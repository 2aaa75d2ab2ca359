"""How many certificates may still be issued under each quota name. Pure.

A quota name is ``profile:NAME`` or ``token:ID``. The journal's intents are the truth: each spends one of every name it lists,
a void gives it back, and the journal counts both as *tallies*. This ledger begins with those tallies and adds what is in the
making, so that two requests at once can never both take the last one. Between :meth:`Ledger.reserve` and the durable intent
a unit is *reserved*; :meth:`commit` makes it *spent*, :meth:`release` gives it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.errors import QuotaExhausted, RequestError


class Exhausted(QuotaExhausted):
    """``name`` has no unit left."""

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(f"the quota {name} of {limit} is used up")
        self.name = name


def profile_quota(profile: str) -> str:
    return f"profile:{profile}"


def token_quota(token_id: str) -> str:
    return f"token:{token_id}"


class Ledger:
    """Counts units taken by name. A name without a limit is counted all the same: a limit may be set later."""

    def __init__(self, spent: Mapping[str, int] | None = None) -> None:
        self._taken: dict[str, int] = dict(spent or {})  # spent and reserved
        self._reserved: dict[str, int] = {}
        self._limits: dict[str, int] = {}

    def limit(self, name: str, units: int | None) -> None:
        """Set or (``None``) lift the limit of ``name``. One below what is spent only means that nothing more is given."""
        if units is None:
            self._limits.pop(name, None)
        else:
            self._limits[name] = units

    def spent(self, name: str) -> int:
        """Units of durable intents that were not voided."""
        return self._taken.get(name, 0) - self._reserved.get(name, 0)

    def remaining(self, name: str) -> int | None:
        """Units that could be reserved now; ``None`` without a limit."""
        limit = self._limits.get(name)
        return None if limit is None else max(0, limit - self._taken.get(name, 0))

    def reserve(self, names: Iterable[str]) -> None:
        """Take one unit of every name, or none of any: raises Exhausted naming the first without one."""
        names = tuple(names)
        for name in names:
            limit = self._limits.get(name)
            if limit is not None and self._taken.get(name, 0) >= limit:
                raise Exhausted(name, limit)
        for name in names:
            self._taken[name] = self._taken.get(name, 0) + 1
            self._reserved[name] = self._reserved.get(name, 0) + 1

    def commit(self, names: Iterable[str]) -> None:
        """The intent that spends these reserved units is durable."""
        for name in names:
            self._unreserve(name)

    def release(self, names: Iterable[str]) -> None:
        """Give reserved units back: no intent was written."""
        for name in names:
            self._unreserve(name)
            self._give_back(name)

    def refund(self, names: Iterable[str]) -> None:
        """Give spent units back: their intent became void."""
        for name in names:
            self._give_back(name)

    def _unreserve(self, name: str) -> None:
        left = self._reserved.get(name, 0) - 1
        if left < 0:
            raise ValueError(f"no unit of {name} is reserved")
        if left:
            self._reserved[name] = left
        else:
            del self._reserved[name]

    def _give_back(self, name: str) -> None:
        left = self._taken.get(name, 0) - 1
        if left < self._reserved.get(name, 0):
            raise ValueError(f"no unit of {name} is taken")
        if left:
            self._taken[name] = left
        else:
            del self._taken[name]


def is_token_exhausted(error: RequestError) -> bool:
    """Whether it was a one-time token whose uses ran out, which is a matter of authentication, not of what central granted."""
    return isinstance(error, Exhausted) and error.name.startswith("token:")
