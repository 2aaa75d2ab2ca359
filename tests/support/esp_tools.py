"""Espressif's own tools, unmodified, from the environment ``tests/boards.lock`` (esptool is GPL: run, never imported)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.environments import environment


def tool(name: str) -> Path:
    """``esptool``, ``espefuse`` or ``configure_esp_secure_cert.py``."""
    return environment("boards") / "bin" / name


def vendor_partition(directory: Path, certificate: bytes, authority: bytes, key: bytes, ending: str) -> bytes:
    """What the maker's tool writes in ``directory`` from these files, whose form (PEM, DER) it sees for itself."""
    files = {f"device.{ending}": certificate, f"ca.{ending}": authority, f"key.{ending}": key}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    arguments = ["--target_chip", "esp32c3", "--skip_flash", "--secure_cert_type", "cust_flash_tlv"]
    device, ca, private = files
    arguments += ["--device-cert", device, "--ca-cert", ca, "--private-key", private]
    run(tool("configure_esp_secure_cert.py"), *arguments, directory=directory)
    return (directory / "esp_secure_cert_data" / "esp_secure_cert.bin").read_bytes()


def vendor_parse(directory: Path, partition: bytes) -> dict[str, bytes]:
    """What the maker's parser takes out of a partition, by file name."""
    (directory / "partition.bin").write_bytes(partition)
    run(tool("configure_esp_secure_cert.py"), "--target_chip", "esp32c3", "--parse_bin", "partition.bin", directory=directory)
    contents = directory / "esp_secure_cert_parsed_data" / "contents"
    return {path.name: path.read_bytes() for path in sorted(contents.iterdir())}


def run(program: Path, *arguments: str, directory: Path) -> str:
    result = subprocess.run([str(program), *arguments], cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
