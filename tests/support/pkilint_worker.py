"""Runs inside the environment of :mod:`tests.support.pkilint`: many calls of pkilint's command lines in one process.

Standard input: a JSON list of ``[tool, arguments]``. Standard output: a JSON list of what each printed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys


def run(tool: str, arguments: list[str]) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        importlib.import_module(f"pkilint.bin.{tool}").main(arguments)
    return output.getvalue()


json.dump([run(tool, arguments) for tool, arguments in json.load(sys.stdin)], sys.stdout)
