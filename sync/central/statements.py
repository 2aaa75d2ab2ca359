"""The SQL that SQLite and PostgreSQL share, made from the tables of :mod:`sync.central.rows`.

Both number their parameters, one as ``?1``, the other as ``$1``; both know upserts and row values. What differs is in the
two stores. Names come from the row types alone and are always quoted; values are parameters.
"""

# ruff: noqa: S608  # statements are put together from the names of row types, values are parameters

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from sync.central.row import Row
from sync.central.rows import TABLE_OF, TABLES, Certificate, Table
from sync.central.store import MOST_SCANNED, Page, Search, Value

#: Rises when a table changes; each database remembers which it has.
SCHEMA_VERSION = 2
#: The records of all journals: ``place`` is the journal's number, then seq in 40 bits, so each journal is one run of the key.
SEQ_BITS = 40
RECORD_COLUMNS = ("place", "received", "leaf", "body")


def place_of(number: int, seq: int) -> int:
    return number << SEQ_BITS | seq


def seq_of(place: int) -> int:
    return place & (1 << SEQ_BITS) - 1


def values_of(table: Table) -> Callable[[Row], tuple[Value, ...]]:
    """Fetches a row's columns in order."""
    return _GETTERS[table.row]


_GETTERS: Mapping[type[Row], Callable[[Row], tuple[Value, ...]]] = {
    table.row: attrgetter(*table.names) for table in TABLES
}  # fmt: skip


def ordered(table: Table, rows: Sequence[Row]) -> list[Row]:
    """By key, each key once with its last row: transactions then lock rows in one order and cannot wait for each other."""
    key = attrgetter(*table.key)
    latest = {key(row): row for row in rows}
    return [latest[each] for each in sorted(latest)]


@dataclass(frozen=True, slots=True)
class Scan:
    """The two statements of one page of a search: the page, and the key at which it stopped looking (none at the end)."""

    page: str
    page_values: tuple[Value, ...]
    stop: str
    stop_values: tuple[Value, ...]

    @staticmethod
    def page_of(found: Sequence[Certificate], limit: int, stop: Sequence[tuple[bytes, bytes]]) -> Page:
        """``stop`` are the rows of the second statement, which a full page makes unnecessary."""
        if len(found) == limit:
            return Page(tuple(found), (found[-1].serial, found[-1].issuer))
        return Page(tuple(found), stop[0] if stop else None)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one database writes what the other writes differently."""

    mark: str  # before the number of a parameter
    types: Mapping[type, str]
    table_end: str
    like: str  # compares without regard to case

    def schema(self) -> tuple[str, ...]:
        statements = []
        for table in TABLES:
            columns = ", ".join(f'"{name}" {self.types[kind]} NOT NULL' for name, kind in table.columns)
            statements.append(f'CREATE TABLE "{table.name}" ({columns}, PRIMARY KEY ({_names(table.key)})){self.table_end}')
            for index in table.indexes:
                name = f"{table.name}_{'_'.join(index)}"
                statements.append(f'CREATE INDEX "{name}" ON "{table.name}" ({_names(index)})')
        number, octets = self.types[int], self.types[bytes]
        # leaf stands before body: reading leaves alone then skips the pages of long bodies
        statements.append(
            f"CREATE TABLE record (place {number} NOT NULL PRIMARY KEY, received {number} NOT NULL, leaf {octets} NOT NULL, "
            f"body {octets} NOT NULL){self.table_end}"
        )
        return tuple(statements)

    def find(self, row: type[Row]) -> str:
        table = TABLE_OF[row]
        return f"{_select(table)} WHERE {self._equal(table.key)}"

    def select(self, row: type[Row], equal: Sequence[str], *, after: bool) -> str:
        """Parameters: the values of ``equal``, the key to begin behind, the limit."""
        table = TABLE_OF[row]
        conditions = [self._equal(_checked(table, equal))] if equal else []
        count = len(equal)
        if after:
            conditions.append(f"({_names(table.key)}) > ({self._marks(len(table.key), count)})")
            count += len(table.key)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"{_select(table)}{where} ORDER BY {_names(table.key)} LIMIT {self.mark}{count + 1}"

    def select_in(self, row: type[Row], column: str, condition: str) -> str:
        table = TABLE_OF[row]
        return f"{_select(table)} WHERE {_names(_checked(table, (column,)))} {condition} LIMIT {MOST_SCANNED}"

    def count(self, row: type[Row], equal: Sequence[str]) -> str:
        return f"SELECT count(*) FROM {self._where(row, equal)}"

    def remove(self, row: type[Row], equal: Sequence[str]) -> str:
        return f"DELETE FROM {self._where(row, equal)}"

    def change(self, row: type[Row], columns: Sequence[str]) -> str:
        """Parameters: the new values, the key."""
        table = TABLE_OF[row]
        changes = ", ".join(f'"{name}" = {self.mark}{at}' for at, name in enumerate(_checked(table, columns), 1))
        return f'UPDATE "{table.name}" SET {changes} WHERE {self._equal(table.key, len(columns))}'

    def insert(self, table: Table) -> str:
        """Up to the values."""
        return f'INSERT INTO "{table.name}" ({_names(table.names)})'

    def conflict(self, table: Table, *, replace: bool) -> str:
        """What follows the values."""
        others = [name for name in table.names if name not in table.key]
        if not replace or not others:
            return " ON CONFLICT DO NOTHING"
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in others)
        return f" ON CONFLICT ({_names(table.key)}) DO UPDATE SET {changes}"

    def search(self, search: Search, after: tuple[bytes, bytes] | None, limit: int) -> Scan:
        """Indexed columns and the place to go on from choose what is looked at; everything else picks from that."""
        names: list[str] = []
        values: list[Value] = []
        for name in ("serial", "device", "spki"):
            if value := getattr(search, name):
                names.append(name)
                values.append(value)
        conditions = [self._equal(names)] if names else []
        if after is not None:
            conditions.append(f'("serial", "issuer") < ({self._marks(2, len(values))})')
            values += after
        order = '"serial" DESC, "issuer" DESC'
        looked_at = f"{_all(conditions)} ORDER BY {order} LIMIT {MOST_SCANNED}"
        stop = f'SELECT "serial", "issuer" FROM "certificate"{looked_at[: -len(str(MOST_SCANNED))]}1 OFFSET {MOST_SCANNED - 1}'
        picked, scanned = [], tuple(values)
        for name in ("origin", "profile"):
            if value := getattr(search, name):
                picked.append(self._equal([name], len(values)))
                values.append(value)
        if search.text:
            escaped = search.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            picked.append(f"(\"subject\" || ' ' || \"sans\") {self.like} {self._marks(1, len(values))} ESCAPE '\\'")
            values.append(f"%{escaped}%")
        certificates = f"({_select(TABLE_OF[Certificate])}{looked_at}) AS looked_at"
        page = f"SELECT * FROM {certificates}{_all(picked)} ORDER BY {order} LIMIT {limit}"
        return Scan(page, tuple(values), stop, scanned)

    def _where(self, row: type[Row], equal: Sequence[str]) -> str:
        table = TABLE_OF[row]
        return f'"{table.name}"' + (f" WHERE {self._equal(_checked(table, equal))}" if equal else "")

    def _equal(self, names: Iterable[str], before: int = 0) -> str:
        return " AND ".join(f'"{name}" = {self.mark}{before + at}' for at, name in enumerate(names, 1))

    def _marks(self, count: int, before: int = 0) -> str:
        return ", ".join(f"{self.mark}{before + at}" for at in range(1, count + 1))


def _names(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _select(table: Table) -> str:
    return f'SELECT {_names(table.names)} FROM "{table.name}"'


def _all(conditions: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _checked(table: Table, names: Sequence[str]) -> Sequence[str]:
    """Column names come from keyword arguments of our own code; a wrong one is a mistake there."""
    for name in names:
        if name not in table.names:
            raise KeyError(f"{table.name} has no column {name}")
    return names
