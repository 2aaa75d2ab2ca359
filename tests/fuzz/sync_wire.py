"""Coverage-guided fuzzing of the messages to central: ``python -m tests.fuzz.sync_wire RUNS`` where atheris is installed."""

from __future__ import annotations

import sys

from tests.fuzz.targets import main

if __name__ == "__main__":
    sys.argv.insert(1, "sync_wire")
    main()
