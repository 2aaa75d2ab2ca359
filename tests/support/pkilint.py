"""pkilint in a virtual environment of its own (``build/pkilint-venv``), made with pip when it is first needed.

It cannot share ours: it pins other versions of common packages. One process lints many files, because starting it takes over a
second.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.environments import environment

_WORKER = Path(__file__).with_name("pkilint_worker.py")
#: What a file is, by its name's ending: pkilint's command and its arguments.
_TOOLS = {
    ".cert": ("lint_pkix_cert", ["lint"]),
    ".crl": ("lint_crl", ["lint", "-t", "CRL", "-p", "PKIX"]),
    ".ocsp": ("lint_ocsp_response", ["lint"]),
}


def interpreter() -> Path:
    """The Python that has pkilint."""
    return environment("pkilint") / "bin" / "python"


def findings(directory: Path, documents: Mapping[str, bytes], *, severity: str = "ERROR") -> dict[str, list[str]]:
    """Codes of pkilint's findings of at least ``severity`` for each of ``documents``, DER by name.

    A name ends in ``.cert``, ``.crl`` or ``.ocsp``. A document that pkilint cannot read is a finding as well.
    """
    jobs = []
    for name, encoded in documents.items():
        path = directory / name
        path.write_bytes(encoded)
        tool, arguments = _TOOLS[path.suffix]
        jobs.append([tool, [*arguments, "-s", severity, "-f", "JSON", "--document-format", "DER", str(path)]])
    command = [str(interpreter()), "-P", str(_WORKER)]  # -P: this module must not hide the real pkilint
    result = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, check=True)
    return {name: _codes(printed) for name, printed in zip(documents, json.loads(result.stdout), strict=True)}


def _codes(printed: str) -> list[str]:
    try:
        report = json.loads(printed)
    except json.JSONDecodeError:
        return [printed.strip()]
    return [finding["code"] for node in report["results"] for finding in node["finding_descriptions"]]
