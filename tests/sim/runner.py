"""Runs many histories on all processors. ``python -m tests.sim.runner --help``; scripts/simulate calls it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

from tests.sim.history import WRONG_RULES, Broken, History

_CHUNK = 500


@dataclass
class Figures:
    """What came of a range of seeds; ``broken`` is by seed."""

    histories: int = 0
    records: int = 0
    steps: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    broken: dict[int, str] = field(default_factory=dict)

    def add(self, other: Figures) -> None:
        self.histories += other.histories
        self.records += other.records
        self.steps += other.steps
        self.kinds += other.kinds
        self.found += other.found
        self.broken |= other.broken

    def text(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        found = "".join(f"\n  {count:>7} {how}" for how, count in self.found.most_common())
        return f"{self.histories} histories ({kinds}), {self.steps} steps, {self.records} records; found out:{found}"


def run_seeds(seeds: range, wrong: str = "", real: bool = False) -> Figures:
    """Every history of ``seeds``. A mistake of the simulation itself counts as broken, too."""
    figures = Figures()
    for seed in seeds:
        try:
            outcome = History(seed, wrong, real=real).run()
        except Broken as error:
            figures.broken[seed] = str(error)
        except Exception as error:
            figures.broken[seed] = repr(error)
        else:
            figures.steps += outcome.steps
            figures.records += outcome.records
            figures.kinds[outcome.kind] += 1
            if outcome.found_by:
                figures.found[f"{outcome.kind}: {_without_numbers(outcome.found_by)}"] += 1
        figures.histories += 1
    return figures


def run_many(first: int, count: int, *, wrong: str = "", real: bool = False, processes: int | None = None) -> Iterator[Figures]:
    """The figures so far after each chunk, from as many processes as there are processors if not told otherwise."""
    chunks = [range(at, min(at + _CHUNK, first + count)) for at in range(first, first + count, _CHUNK)]
    figures = Figures()
    # Forking would copy the threads of whoever runs this.
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for part in pool.map(partial(run_seeds, wrong=wrong, real=real), chunks):
            figures.add(part)
            yield figures


def _without_numbers(text: str) -> str:
    return " ".join("N" if word.strip(":").isdigit() else word for word in text.split())


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate whole histories of a gateway and central and check every promise.")
    parser.add_argument("--histories", type=int, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed; a history is reproduced by --seed N --histories 1")
    parser.add_argument("--real", action="store_true", help="with real records, signatures and batch octets (slower)")
    parser.add_argument("--wrong", choices=WRONG_RULES, default="", help="with a rule broken on purpose")
    parser.add_argument("--processes", type=int, help="how many at once (default: one for each processor)")
    options = parser.parse_args()
    began = shown = time.monotonic()
    figures = Figures()
    print(f"seeds {options.seed} to {options.seed + options.histories - 1}", flush=True)
    for figures in run_many(
        options.seed, options.histories, wrong=options.wrong, real=options.real, processes=options.processes
    ):
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            rate = figures.histories / (shown - began)
            print(f"{figures.histories} histories, {rate:.0f}/s, {len(figures.broken)} broken", flush=True)
    print(f"{figures.text()}\n{time.monotonic() - began:.0f} s")
    flags = (" --real" if options.real else "") + (f' --wrong "{options.wrong}"' if options.wrong else "")
    for seed, promise in sorted(figures.broken.items())[:20]:
        print(f"BROKEN: {promise}\n  again: scripts/simulate --seed {seed} --histories 1{flags}")
    return 1 if figures.broken else 0


if __name__ == "__main__":
    sys.exit(main())
