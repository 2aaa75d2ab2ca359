"""Programs of others that read what we draw: zbarimg (QR codes), dmtxread (Data Matrix), pdftoppm (PDF), and a renderer of ZPL.

The renderer is an npm package, installed into ``build/zpl-renderer`` when it is first needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_RENDERER = _ROOT / "tests" / "zpl-renderer"
_INSTALLED = _ROOT / "build" / "zpl-renderer"


def qr_codes(picture: Path) -> list[str]:
    """What the QR codes in a picture say."""
    command = ["zbarimg", "--quiet", "--raw", "--nodbus", "-Sdisable", "-Sqrcode.enable", str(picture)]
    return subprocess.run(command, check=False, capture_output=True, timeout=60).stdout.decode().splitlines()


def data_matrix(picture: Path) -> str:
    """What the first Data Matrix in a picture says."""
    command = ["dmtxread", "-m20000", "-N1", str(picture)]  # it exits with 1 where it finds none
    return subprocess.run(command, check=False, capture_output=True, timeout=60).stdout.decode()


def pages(document: Path, dpi: int) -> list[Path]:
    """The pages of a PDF as pictures."""
    prefix = document.with_suffix("")
    subprocess.run(["pdftoppm", "-r", str(dpi), "-png", str(document), str(prefix)], check=True, timeout=60)
    return sorted(document.parent.glob(f"{prefix.name}-*.png"))


def page_sizes(document: Path) -> list[str]:
    """Of each page in points, as pdfinfo says it."""
    text = subprocess.run(["pdfinfo", "-l", "-1", str(document)], check=True, capture_output=True, timeout=60).stdout.decode()
    return [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("Page ") and "size" in line]


def draw_zpl(zpl: bytes, picture: Path, width_mm: float, height_mm: float, dpi: int) -> None:
    """``picture`` is what a printer of this resolution would print on a label of this size."""
    source = picture.with_suffix(".zpl")
    source.write_bytes(zpl)
    dots_per_mm = {203: 8, 300: 12, 600: 24}[dpi]
    command = [
        "node",
        str(_RENDERER / "render.cjs"),
        str(source),
        str(picture),
        str(width_mm),
        str(height_mm),
        str(dots_per_mm),
    ]
    environment = {**os.environ, "ZPL_MODULES": str(_modules())}
    subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment)


def _modules() -> Path:
    complete = _INSTALLED / hashlib.sha256((_RENDERER / "package-lock.json").read_bytes()).hexdigest()
    _INSTALLED.parent.mkdir(exist_ok=True)
    with (_INSTALLED.parent / "zpl-renderer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(_INSTALLED, ignore_errors=True)
            _INSTALLED.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(_RENDERER / name, _INSTALLED)
            npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(npm, cwd=_INSTALLED, check=True, capture_output=True, timeout=300)
            complete.touch()
    return _INSTALLED
