"""Papers as their readers have them: a record verified with openssl alone, the example template of the document."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from provisioning import zpl
from provisioning.exports import pem
from provisioning.labels import fill, parse_template
from provisioning.papers import production_record
from tests.support.label_templates import VALUES
from tests.support.parties import finished, party, produced

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "line" / "papers.md"


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize("kind", ["p-256", "rsa-2048"])
def test_openssl_verifies_a_production_record(tmp_path: Path, kind: str) -> None:
    record = json.loads(finished(production_record(produced(), party(kind)), kind))
    header = json.loads(unpadded(record["protected"]))
    signature = unpadded(record["signature"])
    if header["alg"] == "ES256":
        signature = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    (tmp_path / "message").write_text(f"{record['protected']}.{record['payload']}")
    (tmp_path / "signature").write_bytes(signature)
    chain = [pem(base64.b64decode(each)) for each in header["x5c"]]
    (tmp_path / "signer.pem").write_text(chain[0])
    (tmp_path / "issuer.pem").write_text(chain[1])
    (tmp_path / "root.pem").write_text(chain[2])

    def openssl(*arguments: str) -> str:
        return subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    (tmp_path / "key.pem").write_text(openssl("x509", "-in", "signer.pem", "-noout", "-pubkey"))
    assert "Verified OK" in openssl("dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "message")
    assert "OK" in openssl("verify", "-CAfile", "root.pem", "-untrusted", "issuer.pem", "signer.pem")
    (tmp_path / "message").write_text(f"{record['protected']}.{record['payload']}A")
    with pytest.raises(subprocess.CalledProcessError):
        openssl("dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "message")


def test_the_template_in_the_document_is_one() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    start = lines.index("    [label]")
    template = []
    for line in lines[start:]:
        if line and not line.startswith("    "):
            break
        template.append(line.removeprefix("    "))
    label = fill(parse_template("\n".join(template)), VALUES, reprint=1)
    assert label.codes == (VALUES.uri,)
    assert b"reprint 1" in zpl.render(label)
