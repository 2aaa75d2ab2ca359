"""Coverage-guided fuzzing of the OCSP codec: ``python -m tests.fuzz.ocsp_codec RUNS`` where atheris is installed."""

from __future__ import annotations

import sys

from tests.fuzz.targets import main

if __name__ == "__main__":
    sys.argv.insert(1, "ocsp_codec")
    main()
