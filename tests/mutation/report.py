"""``python -m tests.mutation.report`` writes the tables of ``docs/MUTANTS.md`` from the results and from ``survivors.toml``.

``survivors.toml`` says for each module and key why a mutant may survive, or which test kills it since that run. A reason that
many share has a name in its table ``reasons`` and stands as ``@name``, where need be with more words behind it. A survivor
without a reason makes the exit status 1, and so does a reason for what is no mutant (any more) or was killed.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutants import mutants_of

ROOT = Path(__file__).resolve().parents[2]
MARK = "<!-- below: written by tests/mutation/report.py -->"


@dataclass(frozen=True, slots=True)
class Found:
    """The last outcome of each mutant of one module's last run."""

    total: int
    outcomes: dict[str, dict[str, str | int]]
    known: frozenset[str]  # the keys of all mutants of the source as it is now

    @property
    def killed(self) -> int:
        return sum(outcome["status"] == "killed" for outcome in self.outcomes.values())

    @property
    def survivors(self) -> list[tuple[str, dict[str, str | int]]]:
        return sorted(
            (item for item in self.outcomes.items() if item[1]["status"] != "killed"), key=lambda item: item[1]["line"]
        )


def read(results: Path) -> dict[str, Found]:
    """By module (``journal/merkle``). Entries of an older source than the last one are left out."""
    found = {}
    for log in sorted(results.glob("*.jsonl")):
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        current = [entry for entry in entries if entry["source"] == entries[-1]["source"]]
        module = log.stem.replace(".", "/")
        source = (ROOT / "gateway" / f"{module}.py").read_text()
        known = mutants_of(source)  # of an operator that is no more, an entry may remain
        same = hashlib.sha256(source.encode()).hexdigest() == entries[-1]["source"]
        found[module] = Found(
            current[-1]["total"],
            {entry["key"]: entry for entry in current if entry["key"] in known or not same},
            frozenset(known),
        )
    return found


def stale(found: dict[str, Found], reasons: dict[str, dict[str, str]]) -> list[str]:
    """The reasons that explain no survivor of the last run of their module."""
    return [
        f"{module}: {key}"
        for module, of in found.items()
        for key in reasons.get(module, {})
        if key not in dict(of.survivors) and (key in of.outcomes or key not in of.known)
    ]


def render(found: dict[str, Found], reasons: dict[str, dict[str, str]]) -> tuple[str, int]:
    """The tables, and how many survivors have no reason."""
    shared = reasons.get("reasons", {})
    lines = [
        "| module | mutants | run | killed | of these by time | survived | killed of run |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    sums: dict[str, Counter[str]] = {}
    for module, of in found.items():
        late = sum(outcome["how"] == "hung" for outcome in of.outcomes.values())
        row = Counter(total=of.total, run=len(of.outcomes), killed=of.killed, late=late)
        lines.append(_row(module, row))
        for name in (module.split("/")[0], "all"):
            sums.setdefault(name, Counter()).update(row)
    lines += [_row(f"**{name}**", row) for name, row in sorted(sums.items(), key=lambda item: item[0] == "all")]
    lines += ["", "## Survivors", "", *(f"- *{name}*: {text}." for name, text in shared.items()), ""]
    lines += ["| module, line | in: change | why, or what kills it now |", "|---|---|---|"]
    unexplained = 0
    for module, of in found.items():
        for key, outcome in of.survivors:
            reason = _written_out(reasons.get(module, {}).get(key, ""), shared)
            unexplained += not reason
            change = key.replace("|", "\\|")
            status = "" if outcome["status"] == "survived" else f" ({outcome['status']})"
            lines.append(f"| {module}:{outcome['line']} | `{change}`{status} | {reason or '**not looked at yet**'} |")
    return "\n".join(lines) + "\n", unexplained


def _written_out(reason: str, shared: dict[str, str]) -> str:
    """``@name`` as the name in italics. Raises KeyError for a name that has no words."""
    if not reason.startswith("@"):
        return reason
    name, _, rest = reason[1:].partition(": ")
    assert shared[name]
    return f"*{name}*" + (f": {rest}" if rest else "")


def _row(name: str, row: Counter[str]) -> str:
    survived = row["run"] - row["killed"]
    return (
        f"| {name} | {row['total']} | {row['run']} | {row['killed']} | {row['late']} | {survived} "
        f"| {100 * row['killed'] / row['run']:.0f} % |"
    )


def main() -> None:
    reasons = tomllib.loads((ROOT / "tests" / "mutation" / "survivors.toml").read_text())
    found = read(ROOT / "build" / "mutation")
    tables, unexplained = render(found, reasons)
    document = ROOT / "docs" / "MUTANTS.md"
    document.write_text(document.read_text().split(MARK)[0] + MARK + "\n\n" + tables)
    unneeded = stale(found, reasons)
    for reason in unneeded:
        print(f"no survivor: {reason}")
    print(f"{unexplained} survivors without a reason")
    sys.exit(bool(unexplained or unneeded))


if __name__ == "__main__":
    main()
