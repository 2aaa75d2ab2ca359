"""A journal file at rest: read only, synchronously, for verifying. The only SQL beside :mod:`gateway.journal.store`."""

# ruff: noqa: S608  # statements are put together from constants of these modules and question marks only

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from gateway.errors import OperatorError
from gateway.journal.store import APPLICATION_ID, COLUMNS, COMMON, SCHEMA, SCHEMA_VERSION, UNIQUE, HeadRow, StoreError, file_uri
from gateway.journal.tip import Row


class DamagedFile(StoreError):
    """SQLite itself cannot read the file."""


class Archive:
    """One file. Nothing read here is trusted."""

    def __init__(self, path: Path) -> None:
        try:
            self._connection = sqlite3.connect(file_uri(path, "ro"), uri=True, timeout=0.5)
        except sqlite3.Error as error:
            raise DamagedFile(str(error)) from error

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def structure_problems(self) -> list[str]:
        """What SQLite finds wrong with the file, and tables, indexes or triggers that are not ours."""
        problems = [
            f"the database file is damaged: {text}" for (text,) in self._all("PRAGMA integrity_check(20)") if text != "ok"
        ]
        found = {
            " ".join(cast(str, sql).split()) for (sql,) in self._all("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")
        }
        ours = {" ".join(statement.split()) for statement in SCHEMA if statement.startswith("CREATE")}
        problems += [f"a table or index is missing or was changed: {sql}" for sql in sorted(ours - found)]
        problems += [f"the database holds something that is not ours: {sql}" for sql in sorted(found - ours)]
        for name, expected in (("application_id", APPLICATION_ID), ("user_version", SCHEMA_VERSION)):
            if self._all(f"PRAGMA {name}") != [(expected,)]:
                problems.append(f"the file says of itself that it is no journal of this version ({name})")
        return problems

    def count(self) -> int:
        return cast(int, self._all("SELECT count(*) FROM record NOT INDEXED")[0][0])

    def rows(self) -> Iterator[Row]:
        """All rows by seq; a column may hold anything."""
        try:
            for row in self._connection.execute(f"SELECT {COLUMNS} FROM record NOT INDEXED ORDER BY seq"):
                yield Row(*row)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise DamagedFile(str(error)) from error

    def seq_of(self, kind: str, serial: bytes) -> int | None:
        """The first record of ``kind`` (intent or issued) with this serial column."""
        query = f"SELECT min(seq) FROM record WHERE serial = ? AND kind = ? AND kind IN {UNIQUE}"
        return cast("int | None", self._all(query, serial, kind)[0][0])

    def bodies_of(self, kind: str) -> list[bytes]:
        """Of all records whose column says this rare kind, by seq; a body may be anything."""
        rows = self._all(f"SELECT body FROM record WHERE kind = ? AND kind NOT IN {COMMON} ORDER BY seq", kind)
        return [body for (body,) in rows if isinstance(body, bytes)]

    def heads(self) -> list[HeadRow]:
        rows = self._all("SELECT size, frontier, open, note FROM head")
        return [HeadRow.of(cast(int, a), cast(bytes, b), cast(bytes, c), cast(str, d)) for a, b, c, d in rows]

    def tallies(self) -> dict[str, int]:
        return {cast(str, scope): cast(int, used) for scope, used in self._all("SELECT scope, used FROM tally")}

    def claim(self, name: bytes) -> int | None:
        """The record that made this claim."""
        found = self._all("SELECT seq FROM claim WHERE name = ?", name)
        return cast(int, found[0][0]) if found else None

    def claims(self) -> int:
        return cast(int, self._all("SELECT count(*) FROM claim")[0][0])

    def open_units(self) -> set[int]:
        return {cast(int, seq) for (seq,) in self._all("SELECT seq FROM open_unit")}

    def _all(self, query: str, *values: object) -> list[tuple[object, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise OperatorError("the journal is open in another process") from error
            raise DamagedFile(str(error)) from error
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise DamagedFile(str(error)) from error
