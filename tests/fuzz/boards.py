"""Coverage-guided fuzzing of what boards on the line say: ``python -m tests.fuzz.boards RUNS`` where atheris is installed."""

from __future__ import annotations

import sys

from tests.fuzz.targets import main

if __name__ == "__main__":
    sys.argv.insert(1, "boards")
    main()
