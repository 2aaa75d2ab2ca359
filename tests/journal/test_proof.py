"""A proof file convinces with nothing but the verifier key; the published thirty-line script refuses every tampering."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import IntegrityError, NotFound
from gateway.journal.checkpoint import verifier_key
from gateway.journal.proof import Proof
from gateway.journal.records import Issued, Started
from tests.support.journal import KEY, ORIGIN, Place, issue, real_issue

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "check_proof.py"
VKEY = verifier_key(ORIGIN, KEY.public_key())


async def _proof(place: Place) -> Proof:
    journal = await place.create()
    try:
        for number in range(5):
            await real_issue(journal, number)
        _, done = await real_issue(journal, 5)
        for number in range(6, 11):
            await real_issue(journal, number)
        assert isinstance(done.payload, Issued)
        return await journal.prove_serial(int(done.payload.serial, 16))
    finally:
        await journal.close()


def _run_script(path: Path, vkey: str = VKEY) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, path, vkey], capture_output=True, text=True, timeout=30, check=False)


def test_the_script_has_thirty_lines_and_needs_only_the_standard_library_and_cryptography() -> None:
    text = SCRIPT.read_text()
    assert len(text.splitlines()) <= 30
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert all(line.startswith(("import base64, hashlib, json, sys", "from cryptography")) for line in imports)


async def test_a_proof_convinces_the_script_and_our_own_check(place: Place, tmp_path: Path) -> None:
    proof = await _proof(place)
    proof.check(VKEY)
    file = tmp_path / "proof.json"
    file.write_text(proof.to_json(), encoding="utf-8")
    run = _run_script(file)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("OK: ")


def _flip(text: str) -> str:
    octets = bytearray(base64.b64decode(text))
    octets[len(octets) // 2] ^= 1
    return base64.b64encode(octets).decode()


def _record(file: dict[str, Any], which: int, change: Callable[[dict[str, Any]], None]) -> None:
    body = json.loads(base64.b64decode(file["records"][which]["record"]))
    change(body)
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    file["records"][which]["record"] = base64.b64encode(text.encode()).decode()


TAMPERINGS: dict[str, Callable[[dict[str, Any]], object]] = {
    "the requester is changed": lambda file: _record(file, 1, lambda body: body.update(requester="somebody else")),
    "the digest is changed": lambda file: _record(file, 0, lambda body: body.update(certificate_digest="AAAA")),
    "a record is another one": lambda file: file["records"].__setitem__(0, file["records"][1]),
    "the index is another": lambda file: file["records"][0].update(index=file["records"][0]["index"] + 1),
    "the index is negative": lambda file: file["records"][0].update(index=-1),
    "a node of the path is changed": lambda file: file["records"][0]["path"].__setitem__(
        1, _flip(file["records"][0]["path"][1])
    ),
    "a node of the path is missing": lambda file: file["records"][0]["path"].pop(),
    "a node is added to the path": lambda file: file["records"][0]["path"].append(file["records"][0]["path"][0]),
    "the path is empty": lambda file: file["records"][1].update(path=[]),
    "the size is changed": lambda file: file.update(checkpoint=file["checkpoint"].replace("\n", "\n1", 1)),
    "the origin is changed": lambda file: file.update(checkpoint="x" + file["checkpoint"]),
    "the signature is missing": lambda file: file.update(checkpoint=file["checkpoint"].split("\u2014")[0]),
    "the certificate is changed": lambda file: file.update(certificate=_flip(file["certificate"])),
    "the certificate is missing": lambda file: file.pop("certificate"),
    "the intent is missing": lambda file: file["records"].pop(1),
}


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_the_script_refuses_a_proof_in_which(name: str, place: Place, tmp_path: Path) -> None:
    body = json.loads((await _proof(place)).to_json())
    TAMPERINGS[name](body)
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(body), encoding="utf-8")
    run = _run_script(file)
    assert run.returncode != 0
    assert "OK" not in run.stdout


async def test_the_script_refuses_another_verifier_key(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "proof.json"
    file.write_text((await _proof(place)).to_json(), encoding="utf-8")
    assert _run_script(file, verifier_key(ORIGIN, Ed25519PrivateKey.generate().public_key())).returncode != 0


async def test_our_own_check_refuses_what_the_script_refuses(place: Place) -> None:
    proof = await _proof(place)
    first, second = proof.records
    bad = [
        replace(proof, certificate=None),
        replace(proof, certificate=proof.certificate and proof.certificate + b"\0"),
        replace(proof, records=(replace(first, index=first.index + 1), second)),
        replace(proof, records=(replace(first, path=first.path[:-1]), second)),
        replace(proof, records=(replace(first, body=second.body), second)),
        replace(proof, note=proof.note.replace("\n", "\n1", 1)),
    ]
    for changed in bad:
        with pytest.raises(IntegrityError):
            changed.check(VKEY)


async def test_any_record_can_be_proved_and_what_is_not_there_cannot(place: Place) -> None:
    journal = await place.create()
    await issue(journal, 1)
    for seq in range(journal.head.size):
        (await journal.prove(seq)).check(journal.genesis.verifier_key)
    started = [record async for record in journal.scan(Started)]
    assert (await journal.prove(started[0].seq)).certificate is None
    with pytest.raises(NotFound):
        await journal.prove(journal.head.size)
    with pytest.raises(NotFound):
        await journal.prove_serial(1)
    await journal.close()
