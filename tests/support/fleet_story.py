"""What a fleet must survive, told step by step: the cable out, work on both sides, the cable in; then the same with bundles.

Nothing is believed because a daemon says so: the two sides are compared by what lies in backups of their databases and by what
their interfaces answer (:func:`differences`).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from gateway.errors import GatewayError
from gateway.journal.archive import Archive
from gateway.journal.canonical import JsonValue
from gateway.journal.certificates import certificate_of
from gateway.journal.records import Intent, Issued, Released, Revoked, decode
from sync.central.rows import Journal
from sync.central.store import CentralStore
from sync.central.store_sqlite import SqliteStore
from tests.support.fleet import PROFILE, Daemon, Fleet, FleetError, Gateway, JsonObject, until

_PAGE = 500
#: What the story says when it goes on.
Say = Callable[[str], None]


@dataclass(slots=True)
class Account:
    """What one side has of one gateway."""

    records: list[bytes] = field(default_factory=list)
    certificates: dict[str, bytes] = field(default_factory=dict)  # serial -> DER
    profiles: dict[str, str] = field(default_factory=dict)  # serial -> profile
    revoked: dict[str, str] = field(default_factory=dict)  # serial -> reason

    def take(self, body: bytes, intents: dict[str, Intent]) -> None:
        self.records.append(body)
        match decode(body).payload:
            case Intent() as intent:
                intents[intent.serial] = intent
            case Issued() as issued:
                if issued.serial in self.certificates:
                    raise FleetError(f"the certificate {issued.serial} is there twice")
                self.certificates[issued.serial] = certificate_of(intents[issued.serial], issued)
                self.profiles[issued.serial] = intents[issued.serial].profile
            case Revoked() as revoked:
                self.revoked[revoked.serial] = revoked.reason
            case Released() as released:
                self.revoked.pop(released.serial, None)
            case _:
                pass

    def devices(self) -> list[str]:
        """The serials of certificates of devices that are good, oldest first."""
        return [serial for serial, profile in self.profiles.items() if profile == PROFILE and serial not in self.revoked]


@contextmanager
def _backup_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        yield Path(folder, "copy")


def _account(records: Iterator[bytes]) -> Account:
    account, intents = Account(), dict[str, Intent]()
    for body in records:
        account.take(body, intents)
    return account


def journal_at_rest(path: Path) -> Account:
    """From a gateway's journal that nobody has open."""
    with Archive(path) as archive:
        return _account(row.body for row in archive.rows())


async def central_at_rest(path: Path, origin: str) -> Account:
    """From a database of central that nobody has open."""
    store = await SqliteStore.open(path)
    try:
        return await account_in(store, origin)
    finally:
        await store.close()


async def account_in(store: CentralStore, origin: str) -> Account:
    """The records of one gateway in a database of central."""
    found: list[bytes] = []
    async with store.transaction() as t:
        journal = await t.find(Journal, origin)
        if journal is None:
            raise FleetError(f"central does not know {origin}")
        while page := await t.records(journal, len(found), _PAGE):
            found += [kept.body for kept in page]
    return _account(iter(found))


async def account_of(gateway: Gateway) -> Account:
    """From a backup that the running gateway makes."""
    with _backup_path() as copy:
        await gateway.ask("/backups", {"target": str(copy)})
        return journal_at_rest(copy)


async def account_at_central(central: Daemon, origin: str) -> Account:
    """The records from a backup; which certificates there are and which are revoked as central answers when it is asked."""
    with _backup_path() as copy:
        await central.ask("/backups", {"target": str(copy)})
        account = await central_at_rest(copy, origin)
    searched = {str(each["serial"]): each for each in await search(central, origin)}
    if set(searched) != set(account.certificates):
        raise FleetError("central's search finds other certificates than its records hold")
    account.revoked = {serial: str(each["reason"]) for serial, each in searched.items() if each["state"] == "revoked"}
    return account


async def search(central: Daemon, origin: str) -> list[JsonObject]:
    """All certificates of one gateway, as central lists them; serials that never became one are left out."""
    found: list[JsonObject] = []
    body: JsonObject = dict.fromkeys(("text", "serial", "device", "profile", "after"), "") | {"origin": origin}
    async with central.control() as client:
        while True:
            page = await client.post("/certificates/search", body)
            certificates = page["certificates"]
            assert isinstance(certificates, list)
            found += [each for each in certificates if isinstance(each, dict) and each["state"] != "void"]
            if not page["after"]:
                return found
            body["after"] = page["after"]


async def differences(fleet: Fleet, *, by_bundle: bool = False) -> list[str]:
    """In what central and its gateways do not agree now; nothing when they do.

    What a gateway did because of a bundle's answer travels with its next bundle: with ``by_bundle`` its journal may be longer,
    and central need not know yet that its document is in force.
    """
    found: list[str] = []
    for gateway in fleet.gateways:
        theirs = await account_at_central(fleet.central, gateway.origin)
        ours = await account_of(gateway)
        if ours.records[: len(theirs.records)] != theirs.records:
            found.append(f"{gateway.name}: central's records are not the beginning of the journal")
        if len(theirs.records) < len(ours.records) and not by_bundle:
            found.append(f"{gateway.name}: central has {len(theirs.records)} of {len(ours.records)} records")
        if theirs.certificates != ours.certificates:
            found.append(f"{gateway.name}: {len(ours.certificates)} certificates, central has {len(theirs.certificates)}")
        if theirs.revoked != ours.revoked:
            found.append(f"{gateway.name}: {len(ours.revoked)} are revoked, by central {len(theirs.revoked)}")
        found += await _documents(fleet, gateway, by_bundle)
    return found


async def _documents(fleet: Fleet, gateway: Gateway, by_bundle: bool) -> list[str]:
    applied = (await gateway.ask("/central"))["applied"]
    entry = await entry_of(fleet.central, gateway.origin)
    if applied != entry["document"]:
        return [f"{gateway.name}: document {applied} is in force, central has {entry['document']}"]
    if entry["applied"] != applied and not by_bundle:
        return [f"{gateway.name}: central does not know that document {applied} is in force"]
    return []


async def entry_of(central: Daemon, origin: str) -> JsonObject:
    """A gateway in central's list."""
    gateways = (await central.ask("/gateways"))["gateways"]
    assert isinstance(gateways, list)
    return next(each for each in gateways if isinstance(each, dict) and each["origin"] == origin)


async def agreement(fleet: Fleet) -> float:
    """The seconds until both sides agree in everything. Raises FleetError when they do not."""

    async def agreed() -> bool:
        for gateway in fleet.gateways:  # cheap to ask; the thorough comparison comes after it
            report, entry = await gateway.ask("/central"), await entry_of(fleet.central, gateway.origin)
            if report["waiting"] or report["applied"] != entry["document"] or entry["applied"] != report["applied"]:
                return False
        try:
            return not await differences(fleet)
        except FleetError:  # central still works out what the newest records mean
            return False

    try:
        return await until(agreed, "both sides agree")
    except FleetError as error:
        raise FleetError(f"{error}: {'; '.join(await differences(fleet))}") from error


async def revoke_at_gateway(gateway: Gateway, serials: list[str]) -> None:
    async with gateway.control() as client:
        for serial in serials:
            await client.post("/revocations", {"serial": serial, "reason": "keyCompromise"})


async def revoke_at_central(central: Daemon, serials: list[str]) -> None:
    async with central.control() as client:
        for serial in serials:
            await client.post("/revocations", {"serial": serial, "issuer": "", "reason": "superseded"})


async def set_validity(central: Daemon, days: int) -> None:
    """Central's policy: certificates of devices are good for so long from now on."""
    policy: JsonValue = {"profiles": {PROFILE: {"base": PROFILE, "validity": f"{days}d"}}}
    await central.ask("/settings", {"scope": "central", "name": "policy", "value": policy})


async def lifetime_days(gateway: Gateway, prefix: str) -> int:
    """How long a certificate is good that is issued now."""
    await gateway.issue(1, prefix)
    account = await account_of(gateway)
    certificate = x509.load_der_x509_certificate(account.certificates[account.devices()[-1]])
    return (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days


async def _work_apart(fleet: Fleet, count: int, revocations: int, days: int, prefix: str, say: Say) -> None:
    """While nobody hears of anybody: issue and revoke at the gateways, revoke and change the policy at central."""
    old = {gateway.name: (await account_of(gateway)).devices() for gateway in fleet.gateways}
    seconds = await fleet.issue(count, prefix)
    say(f"{count} certificates issued at the gateways over EST in {seconds:.1f} s")
    shares = [revocations // len(fleet.gateways)] * len(fleet.gateways)
    shares[0] += revocations - sum(shares)
    for gateway, share in zip(fleet.gateways, shares, strict=True):
        await revoke_at_gateway(gateway, (await account_of(gateway)).devices()[-share:])
        await revoke_at_central(fleet.central, old[gateway.name][:share])
    say(f"{revocations} certificates revoked at the gateways, {revocations} others at central")
    await set_validity(fleet.central, days)
    say(f"policy changed at central: new certificates are good for {days} days")
    if not await differences(fleet):
        raise FleetError("the sides agree although nothing crossed the cable: the comparison sees nothing")
    for gateway in fleet.gateways:
        report = await gateway.ask("/central")
        say(f"  {gateway.name}: {report['waiting']} records wait for central; {report['trouble'] or report['link']}")


async def _policy_counts(fleet: Fleet, days: int, prefix: str, say: Say) -> None:
    for gateway in fleet.gateways:
        found = await lifetime_days(gateway, f"{gateway.name}-{prefix}")
        if found != days:
            raise FleetError(f"{gateway.name} issues for {found} days, the policy says {days}")
    say(f"a new certificate of each gateway is good for {days} days: the new policy counts")


async def _summary(fleet: Fleet, say: Say) -> None:
    for gateway in fleet.gateways:
        account = await account_of(gateway)
        digest = hashlib.sha256(b"".join(sorted(account.certificates.values()))).hexdigest()[:16]
        say(
            f"  {gateway.name}: {len(account.certificates)} certificates (digest {digest}), {len(account.revoked)} revoked, "
            f"document {(await gateway.ask('/central'))['applied']}; the same at central"
        )


async def by_cable(fleet: Fleet, count: int, revocations: int, say: Say) -> float:
    """The first half; returns the seconds from plugging in to agreement."""
    await fleet.issue(2 * revocations, "before")
    await agreement(fleet)
    say(f"two gateways have joined; {2 * revocations} certificates issued, both sides agree")
    fleet.cable.unplug()
    say("the cable is out")
    await _work_apart(fleet, count, revocations, 30, "apart", say)
    await fleet.plug()
    say("the cable is in")
    seconds = await agreement(fleet)
    say(f"both sides agree {seconds:.1f} s later: records byte for byte, certificates, revocations, document")
    await _summary(fleet, say)
    await _policy_counts(fleet, 30, "after", say)
    await agreement(fleet)
    return seconds


async def by_bundle(fleet: Fleet, count: int, revocations: int, say: Say) -> None:
    """The second half: the cable stays out, files are carried, and carried twice."""
    fleet.cable.unplug()
    say("the cable is out again; now with bundles")
    await _work_apart(fleet, count, revocations, 20, "carried", say)
    with tempfile.TemporaryDirectory(prefix="fleet-usb-") as stick:
        for gateway in fleet.gateways:
            await carry(fleet, gateway, Path(stick), "1", say)
        if found := await differences(fleet, by_bundle=True):
            raise FleetError("; ".join(found))
        say("both sides agree after one way there and back: certificates, revocations, document")
        await _summary(fleet, say)
        await _policy_counts(fleet, 20, "by-hand", say)
        for gateway in fleet.gateways:
            await carry(fleet, gateway, Path(stick), "2", say)
    await fleet.plug()
    seconds = await agreement(fleet)
    say(f"the cable is in; both sides agree in everything {seconds:.1f} s later")


async def carry(fleet: Fleet, gateway: Gateway, stick: Path, trip: str, say: Say) -> None:
    """export -> central -> answer -> import; the same files once more change nothing."""
    up, down = stick / f"{gateway.name}-{trip}.bundle", stick / f"{gateway.name}-{trip}.answer"
    if trip == "1":  # as a person does; the second time what the commands ask of the daemons
        made = await gateway.command("export", str(up))
        await fleet.central.command("import", str(up), str(down))
        await gateway.command("import", str(down))
    else:
        made = await gateway.ask("/central/export", {"target": str(up)})
        await fleet.central.ask("/bundles", {"source": str(up), "target": str(down)})
        await gateway.ask("/central/import", {"source": str(down)})
    say(f"  {gateway.name}: records {made['start']} to {made['stop']} carried in {up.stat().st_size >> 10} KiB, answer taken")
    records = (await entry_of(fleet.central, gateway.origin))["records"]
    await fleet.central.ask("/bundles", {"source": str(up), "target": str(down.with_suffix(".again"))})
    if (await entry_of(fleet.central, gateway.origin))["records"] != records:
        raise FleetError(f"{gateway.name}: the bundle changed something when it was carried a second time")
    try:
        await gateway.ask("/central/import", {"source": str(down)})
    except GatewayError as error:
        raise FleetError(f"{gateway.name} does not take the same answer a second time: {error}") from error
