"""Coverage-guided fuzzing of :func:`gateway.pki.csr.read_csr`: ``python -m tests.fuzz.csr RUNS`` where atheris is installed."""

from __future__ import annotations

import sys

from tests.fuzz.targets import main

if __name__ == "__main__":
    sys.argv.insert(1, "csr")
    main()
