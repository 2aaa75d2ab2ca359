"""The ``edge-gateway`` command."""

from __future__ import annotations

import sys

if not (3, 11) <= sys.version_info < (3, 14):
    sys.exit("edge-gateway needs Python 3.11, 3.12 or 3.13; this is " + sys.version.split()[0])

from gateway.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
