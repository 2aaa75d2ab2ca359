"""``python -m tests.support.pure`` prints the test files of the pure modules, one a line: the set whose coverage is gated.

They mirror the tree: ``gateway/journal/merkle.py`` is proved by ``tests/journal/test_merkle*.py``, a codec by
``tests/protocols/test_NAME_codec*.py`` or ``tests/protocols/NAME/test_codec*.py``.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def pure_tests(root: Path = ROOT) -> list[str]:
    """Paths relative to the repository's top."""
    tests = root / "tests"
    found = set((tests / "pki").rglob("test_*.py"))
    for package, modules in (
        ("journal", ("records", "merkle", "checkpoint", "cosignature")),
        ("authority", ("policy", "requests", "quota")),
        ("sync", ("wire", "session", "ingest", "conflicts")),
        (
            "provisioning",
            (
                *(
                    "esp_secure_cert",
                    "jws",
                    "ticket",
                    "papers",
                    "manifest",
                    "exports",
                    "labels",
                    "zpl",
                    "datamatrix",
                    "droplist",
                ),
                *("patterns", "recipe", "tpm"),
            ),
        ),
    ):
        for module in modules:
            found.update((tests / package).rglob(f"test_{module}*.py"))
    found.update((tests / "protocols").rglob("test_*codec*.py"))
    found.update((tests / "provisioning" / "codec").glob("test_*.py"))
    return sorted(str(path.relative_to(root)) for path in found)


if __name__ == "__main__":
    print("\n".join(pure_tests()))
