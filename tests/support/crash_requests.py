"""The gateway that the crash tests break, and the requests that its clients make and make again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from gateway.app import Gateway
from gateway.authority.requests import EnrollmentRequest, Operation, Requester, RequesterKind
from gateway.config import CaSection, Config, CrlSection, GatewaySection, JournalSection
from tests.support.authority import device_csr
from tests.support.crash import Told

_OPERATOR = Requester(RequesterKind.OPERATOR, "operator:line")
_SAN = {"tls-server": ("DNS:plc.example",), "opcua-application": ("URI:urn:plc.example:app", "DNS:plc.example")}


def configuration(state: Path, *, reserve_bytes: int = 65_536, ca_key: str = "software:ca") -> Config:
    """``reserve_bytes`` is small, because a sweep copies the state hundreds of times."""
    return Config(
        gateway=GatewaySection(name="crash", state=state, base_url="http://pki.example"),
        journal=JournalSection(disk_warn=0.9998, disk_refuse=0.9999, reserve_bytes=reserve_bytes),
        ca=CaSection(key=ca_key),
        crl=CrlSection(delta=True),
        profile={"ldevid": {"quota": 1_000_000}},
    )


async def request(gateway: Gateway, name: str, told: Told) -> EnrollmentRequest:
    """The request called ``[TOKEN:]PROFILE/NUMBER``; the same name gives the same key, names and requester."""
    credential, _, rest = name.rpartition(":")
    profile, _, number = rest.partition("/")
    secret = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") >> 1
    key = ec.derive_private_key(secret, ec.SECP256R1())
    csr = device_csr(f"CN={profile}-{number},serialNumber=SN-{number},O=Line", _SAN.get(profile, ()), key=key)
    requester = await gateway.authority.authenticator.password(*told.tokens[credential]) if credential else _OPERATOR
    return EnrollmentRequest(csr, profile, requester, Operation.ENROLL, "est")
