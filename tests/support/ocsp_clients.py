"""Real OCSP clients as commands against any URL: ``openssl ocsp`` (POST), GnuTLS ``ocsptool`` (POST), curl (GET).

Debian packages: openssl, gnutls-bin, curl.
"""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from urllib.parse import quote


def _run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(part) for part in command], capture_output=True, timeout=60, check=check)


def openssl_status(url: str, certificates: list[Path], *, issuer: Path, anchor: Path, nonce: bool = True) -> str:
    """What ``openssl ocsp`` prints; its verdict on the answer's signature is part of it."""
    asked = [part for certificate in certificates for part in ("-cert", certificate)]
    done = _run(
        "openssl",
        "ocsp",
        "-url",
        url,
        "-issuer",
        issuer,
        *asked,
        "-CAfile",
        anchor,
        *([] if nonce else ["-no_nonce"]),
        check=False,
    )
    return (done.stdout + done.stderr).decode()


def gnutls_status(url: str, certificate: Path, *, issuer: Path, anchor: Path) -> str:
    """What ``ocsptool`` prints."""
    done = _run(
        "ocsptool", f"--ask={url}", "--load-issuer", issuer, "--load-cert", certificate, "--load-trust", anchor, check=False
    )
    return (done.stdout + done.stderr).decode()


def get_status(url: str, certificate: Path, *, issuer: Path, anchor: Path, work: Path, encoded: bool = True) -> str:
    """GET by curl with a request made by openssl, the answer read by openssl; with raw ``/`` and ``+`` unless ``encoded``."""
    request, answer = work / "request.der", work / "answer.der"
    _run("openssl", "ocsp", "-issuer", issuer, "-cert", certificate, "-no_nonce", "-reqout", request)
    text = base64.b64encode(request.read_bytes()).decode()
    _run("curl", "-sS", "--fail", "--path-as-is", "-o", answer, f"{url}/{quote(text, safe='') if encoded else text}")
    done = _run("openssl", "ocsp", "-respin", answer, "-issuer", issuer, "-cert", certificate, "-CAfile", anchor, "-no_nonce")
    return (done.stdout + done.stderr).decode()
