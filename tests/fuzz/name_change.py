"""Fuzzing of :func:`gateway.pki.name_change.renamed`: ``python -m tests.fuzz.name_change RUNS`` where atheris is installed."""

from __future__ import annotations

import sys

from tests.fuzz.targets import main

if __name__ == "__main__":
    sys.argv.insert(1, "name_change")
    main()
