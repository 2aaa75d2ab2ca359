"""What docs/line/station.md shows works as it stands there: curl and openssl as a station and its device."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

from cryptography import x509

from tests.support.line import order_of
from tests.support.stations import counter

DOCUMENT = Path("docs/line/station.md")


async def test_the_script_of_the_documentation_makes_a_unit_and_may_be_run_again_up_to_its_end(tmp_path: Path) -> None:
    (script,) = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.S)
    async with counter(tmp_path, orders=[order_of(label="plate")]) as it:
        station = await it.station()
        assert station.files is not None
        device = tmp_path / "device"
        device.mkdir()
        surroundings = {
            "GATEWAY": f"https://localhost:{it.port}", "CACERT": str(it.pki.anchors), "CERT": str(station.files[0]),
            "KEY": str(station.files[1]), "ORDER": "O-1", "CHIP": "chip-1", "DEVICE": str(device), "PATH": os.environ["PATH"],
        }  # fmt: skip

        async def run(text: str) -> str:
            process = await asyncio.create_subprocess_exec(
                "sh", "-c", text, env=surroundings, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            output, errors = await asyncio.wait_for(process.communicate(), 120)
            assert process.returncode == 0, errors + output
            return output.decode()

        cut_off, _ = script.split("# 5.")  # the station's power fails here
        await run(cut_off)
        assert it.units.open["O-1/SN-00001/1"].state.value == "verified"
        confirmed = json.loads(await run(script))
        assert (confirmed["state"], confirmed["serial"]) == ("confirmed", "SN-00001")
        certificate, *issuers = x509.load_pem_x509_certificates((device / "chain.pem").read_bytes())
        certificate.verify_directly_issued_by(issuers[0])
        assert it.world.journal.head.tallies["order:O-1"] == 1
        assert not it.balance()
