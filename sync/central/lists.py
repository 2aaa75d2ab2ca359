"""Revocation lists at central: the root's own, each gateway's as it was uploaded, and what a gateway's own does not say yet.

The last is an indirect list (RFC 5280 sections 5.2.5 and 5.3.3): the root, which is not the issuer of the certificates, says
what is revoked beyond the newest list that the gateway's CA signed itself, because the gateway is out of reach or has not heard
of it. A verifier takes it into account where the certificate names the root as cRLIssuer, or where it was told to trust it.

Names under ``/crl/``: ``root.crl``; ``KEY-NAME`` for the list that the gateway calls NAME; ``KEY-indirect.crl``. KEY is the
CA's subjectKeyIdentifier in hex.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Final

from cryptography import x509

from gateway.clock import Clock
from gateway.errors import Conflict, MalformedRequest, NotFound, Unavailable
from gateway.pki.crl import CrlEntry, Reason, assemble, build_crl_tbs, indirect_entry, next_crl_number
from gateway.pki.tbs import CaInfo, ca_info
from sync.central.authority import BACKDATE_MS, ROOT_LIST, CentralAuthority, keep_list
from sync.central.listing import every
from sync.central.rows import CENTRAL, GATEWAY, Ca, Crl, Revocation
from sync.central.store import CentralStore, Transaction
from sync.conflicts import SILENT, Word, merged

_log = logging.getLogger(__name__)
INDIRECT: Final = "indirect.crl"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\.crl")
_SERVED = re.compile(r"([0-9a-f]{2,64})-(.+)")
#: Between two looks at every CA; what was uploaded or revoked here is looked at at once.
_LOOK_S = 300.0
_RETRY_S = 15.0
_HOUR_MS = 3_600_000


class CentralLists:
    """Keeps and serves the lists."""

    def __init__(
        self, store: CentralStore, authority: CentralAuthority, clock: Clock, *, validity_hours: int = 48, base_url: str = ""
    ) -> None:
        self._store, self._authority, self._clock = store, authority, clock
        self._validity_ms, self._base_url = validity_hours * _HOUR_MS, base_url
        self._touched: set[bytes] = set()  # key identifiers of CAs
        self._wake = asyncio.Event()
        self._publishing = asyncio.Lock()

    async def find(self, name: str) -> Crl:
        """The list served as ``name``. Raises NotFound."""
        match = _SERVED.fullmatch(name)
        async with self._store.transaction() as t:
            if name == ROOT_LIST:
                found = await t.find(Crl, self._authority.root.key_identifier, ROOT_LIST)
            elif match is None or len(match[1]) % 2:
                found = None
            elif match[2] == INDIRECT:
                found = await t.find(Crl, self._authority.root.key_identifier, name)
            else:
                found = await t.find(Crl, bytes.fromhex(match[1]), match[2])
        if found is None or not found.content:
            raise NotFound(f"there is no list {name[:80]!r} here")
        return found

    async def upload(self, origin: str, name: str, der: bytes) -> bool:
        """Take a list that the gateway ``origin`` signed; whether it is newer than what was there.

        A lower number changes nothing. Raises MalformedRequest for what is no list of a CA of this gateway, Conflict for
        another list with a known number.
        """
        if not _NAME.fullmatch(name):
            raise MalformedRequest("a list has a name like 1.crl")
        if not name[0].isdigit():  # it serves this one for another CA, which central need not hear of from here
            return False
        crl, number = _read(der)
        async with self._store.transaction() as t:
            await t.lock(origin)
            ca = await _signer(t, origin, crl)
            known = await t.find(Crl, ca.key_identifier, name)
            digest = hashlib.sha256(der).digest()
            if known is not None and known.number == number and known.digest != digest:
                raise Conflict(f"another list {name} with number {number} was announced or uploaded before")
            if known is not None and known.content and known.number >= number:
                return False
            if crl.next_update_utc is None:
                raise MalformedRequest("a list says when the next one comes (RFC 5280 section 5.1.2.5)")
            this_ms, next_ms = (int(each.timestamp()) * 1000 for each in (crl.last_update_utc, crl.next_update_utc))
            await t.put(Crl(ca.key_identifier, name, origin, number, this_ms, next_ms, digest, der))
        self.touch(ca.key_identifier)
        return True

    def touch(self, key_id: bytes) -> None:
        """Something changed for the CA with this key identifier: look now."""
        self._touched.add(key_id)
        self._wake.set()

    async def run(self) -> None:
        """Keep the root's list and the indirect ones fresh, for ever."""
        everything = True
        while True:
            self._wake.clear()
            touched, self._touched = self._touched, set()
            try:
                await self.publish_due(None if everything else touched)
                everything = False
            except Unavailable as error:
                _log.warning("lists cannot be signed: %s; the previous ones are served on", error)
                everything = True
            try:
                async with asyncio.timeout(_RETRY_S if everything else _LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                everything = True

    async def publish_due(self, only: Collection[bytes] | None = None) -> int:
        """Sign every list (of the CAs with the key identifiers ``only``) that says something new or of whose time half is
        over; returns how many indirect ones. Raises SignerUnavailable."""
        async with self._publishing:
            await self._authority.publish_list()
            async with self._store.transaction() as t:
                cas = {row.key_id: row async for row in every(t, Ca) if only is None or row.key_id in only}
            signed = 0
            for row in cas.values():
                if row.not_after > self._clock.now_ms():
                    signed += await self._publish(ca_info(row.certificate), row.origin)
            return signed

    async def _publish(self, ca: CaInfo, origin: str) -> bool:
        now_ms = self._clock.now_ms()
        name = f"{ca.key_identifier.hex()}-{INDIRECT}"
        root = self._authority.root
        async with self._store.transaction() as t:
            current = await t.find(Crl, root.key_identifier, name)
            entries = await _unsaid(t, ca, now_ms)
        fresh = current is not None and now_ms * 2 < current.this_update + current.next_update
        if fresh and current is not None and _says(current.content, entries):
            return False
        number = next_crl_number(now_ms, current.number if current else 0)
        this_ms, next_ms = now_ms - BACKDATE_MS, now_ms + self._validity_ms
        tbs = build_crl_tbs(
            ca=root, entries=entries, number=number, this_update_ms=this_ms, next_update_ms=next_ms, indirect=True,
            idp_url=f"{self._base_url}/crl/{name}" if self._base_url else None,
        )  # fmt: skip
        der = assemble(tbs, root.algorithm, await self._authority.sign_status(tbs))
        made = Crl(root.key_identifier, name, origin, number, this_ms, next_ms, hashlib.sha256(der).digest(), der)
        async with self._store.transaction() as t:
            await keep_list(t, made)
        return True


def _says(content: bytes, entries: Sequence[bytes]) -> bool:
    """Whether a list has exactly these entries."""
    listed = x509.load_der_x509_crl(content)
    return len(listed) == len(entries) and b"".join(entries) in listed.tbs_certlist_bytes


async def _unsaid(t: Transaction, ca: CaInfo, now_ms: int) -> list[bytes]:
    """The entries for what is revoked by the words of both sides and stands on no valid list of the CA itself."""
    said: defaultdict[bytes, dict[str, Word]] = defaultdict(dict)
    async for row in every(t, Revocation, issuer=ca.key_identifier):
        said[row.serial][row.side] = row.word
    if not said:
        return []
    listed: dict[int, str] = {}
    for own in await t.select(Crl, issuer=ca.key_identifier):
        if own.content and own.next_update > now_ms:
            listed |= {each.serial_number: _reason(each) for each in x509.load_der_x509_crl(own.content)}
    entries = []
    for serial, sides in sorted(said.items()):
        number = int.from_bytes(serial, "big")
        status = merged(sides.get(GATEWAY, SILENT), sides.get(CENTRAL, SILENT))
        if status is not None and listed.get(number) != status.reason.value:
            entries.append(indirect_entry(CrlEntry(number, status.revoked_ms, status.reason), ca.subject_der))
    return entries


def _reason(entry: x509.RevokedCertificate) -> str:
    try:
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        return Reason.UNSPECIFIED.value


def _read(der: bytes) -> tuple[x509.CertificateRevocationList, int]:
    """The list and its number. Raises MalformedRequest."""
    try:
        crl = x509.load_der_x509_crl(der)
        return crl, crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.ExtensionNotFound) as error:
        raise MalformedRequest(f"not a revocation list with a number: {error}") from error


async def _signer(t: Transaction, origin: str, crl: x509.CertificateRevocationList) -> CaInfo:
    """Which CA of this gateway signed the list. Raises MalformedRequest."""
    for row in await t.select(Ca, origin=origin):
        ca = ca_info(row.certificate)
        if ca.certificate.subject == crl.issuer and crl.is_signature_valid(ca.public_key):
            return ca
    raise MalformedRequest(f"no CA of {origin} signed this list")
