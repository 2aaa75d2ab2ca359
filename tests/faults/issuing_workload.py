"""A whole gateway's life, run again and again in fresh processes whose disk a test breaks.

``python issuing_workload.py`` is a fork server: the interpreter starts once, a life costs milliseconds. Each line on standard
input is a JSON object that says what to do; standard output is the pipe to the clients. They are told, one unbuffered line
each, what a real client would receive after the gateway's answer left: see :meth:`tests.support.crash.Told.hear`. The last
line is the server's ``{"exit": status}``.

The gateway is the product's (:func:`gateway.app.opened`), with a software key and without listeners. The known mistakes that
the tests must catch, the *variants*, are put in here by replacing parts of it, never in the product.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cryptography import x509

from gateway import app
from gateway.app import Gateway
from gateway.authority.issue import Issuer, assemble
from gateway.authority.requests import Issued
from gateway.errors import GatewayError, JournalFailed, Unavailable
from gateway.journal import writer as writer_module
from gateway.journal.store import Broken, Store
from gateway.keys.software import SoftwareSigner
from gateway.pki.crl import Reason
from tests.support.crash import Told, invariants
from tests.support.crash_requests import configuration, request

#: A child that takes longer than this hangs; it dies by SIGALRM and the test says so. Seconds.
_LONGEST_LIFE = 120


def tell(**what: object) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


class Life:
    """What a daemon does between its start and its end, in small."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.told = Told()

    async def enrol(self, name: str) -> Issued | None:
        tell(asked=name)
        try:
            outcome = await self._gateway.authority.enroll(await request(self._gateway, name, self.told))
        except Unavailable as error:  # the client gets a 503 with Retry-After
            tell(error=type(error).__name__)
            return None
        if not isinstance(outcome, Issued):
            tell(error=f"{name}: {outcome}")
            return None
        tell(held=[name, outcome.certificate.hex()])
        return outcome

    async def revoke(self, held: Issued | None, reason: Reason) -> None:
        if held is None:
            return
        try:
            done = await self._gateway.authority.revoker.revoke(held.serial, reason, "operator:line")
        except Unavailable as error:
            tell(error=type(error).__name__)
        else:
            tell(revoked=[f"{done.serial:x}", done.reason.value])

    async def publish(self, *, now: bool = False) -> None:
        publisher = self._gateway.authority.publisher
        try:
            await (publisher.publish_now() if now else publisher.publish_due())
        except Unavailable as error:
            tell(error=type(error).__name__)
        if "1.crl" in publisher.names():
            tell(list=publisher.get("1.crl").number)

    async def token(self, name: str) -> bool:
        """Make a token with two uses; whether there is one now."""
        try:
            made = await self._gateway.authority.tokens.create("ldevid", operator="line", validity_s=3600, uses=2)
        except Unavailable as error:
            tell(error=type(error).__name__)
            return False
        self.told.tokens[name] = [made.token_id, made.secret]
        tell(token=[name, made.token_id, made.secret])
        return True

    async def run(self, turn: int) -> None:
        """The background work of a start, then requests of several profiles with retries beside them, a revocation, a hold."""
        authority = self._gateway.authority
        await authority.delegated.renew_due()
        await self.publish()
        first = await self.enrol(f"ldevid/{turn}1")
        names = [
            f"ldevid/{turn}2",
            f"ldevid/{turn}2",
            f"tls-server/{turn}3",
            f"tls-client/{turn}4",
            f"opcua-application/{turn}5",
        ]
        others = await asyncio.gather(*(self.enrol(name) for name in names))
        await self.revoke(first, Reason.KEY_COMPROMISE)
        await self.revoke(others[-1], Reason.CERTIFICATE_HOLD)
        await self.publish(now=True)
        if await self.token(f"t{turn}"):
            await asyncio.gather(*(self.enrol(f"t{turn}:ldevid/{turn}{number}") for number in (6, 7, 6)))
        await self.enrol(f"ldevid/{turn}1" if first is None else f"ldevid/{turn}8")

    async def crowd(self, clients: int, each: int) -> None:
        """``clients`` at once, ``each`` one request after the other; a certificate in ten is asked for twice, one revoked."""

        async def client(number: int) -> None:
            for turn in range(each):
                name = f"ldevid/{number}-{turn}"
                held, *_ = await asyncio.gather(*(self.enrol(name) for _ in range(2 if turn % 10 == 0 else 1)))
                if turn % 10 == 5:
                    await self.revoke(held, Reason.SUPERSEDED)
                if self._gateway.journal.failure.done():
                    return  # the daemon ends

        await asyncio.gather(*(client(number) for number in range(clients)))


async def live(order: dict[str, Any]) -> None:
    async with app.opened(configuration(Path(order["state"]))) as gateway:
        life = Life(gateway)
        if "clients" in order:
            await life.crowd(order["clients"], order["each"])
        else:
            await life.run(order["turn"])
        if gateway.journal.failure.done():
            raise JournalFailed("the daemon would end with an error now")
    tell(stopped=True)


async def prepare(order: dict[str, Any]) -> None:
    """A gateway with a past: a life that ended in order, then one that was cut short with an open intent and a revocation
    that no list has yet."""
    config = configuration(Path(order["state"]))
    (config.gateway.state / "demo").mkdir(exist_ok=True)
    await app.prepare_demo(config)
    if order.get("new"):
        return
    await live({**order, "turn": 1})
    async with app.opened(config) as gateway:
        life = Life(gateway)
        await life.revoke(await life.enrol("ldevid/101"), Reason.SUPERSEDED)
        SoftwareSigner.sign = _power_off  # type: ignore[method-assign]
        await life.enrol("ldevid/102")


async def _power_off(*_: object, **__: object) -> bytes:
    os._exit(0)


async def check(order: dict[str, Any]) -> None:
    config = configuration(Path(order["state"]))
    if order.get("new"):
        await app.prepare_demo(config)  # what was cut short is taken up again
    tell(broken=await invariants(config, Told.from_json(order["told"]), request))


# The controls: known mistakes that the same checker must find.


def break_on_purpose(variant: str) -> None:
    if variant == "synchronous-normal":
        Store._synchronous = staticmethod(lambda: "synchronous = NORMAL")  # type: ignore[method-assign]
    elif variant == "acknowledge-before-sync":
        begin, begun = Store.write, []

        async def begin_only(self: Store, *arguments: Any) -> None:
            begun.append(asyncio.create_task(begin(self, *arguments)))

        Store.write = begin_only  # type: ignore[method-assign]
    elif variant == "hand-out-before-record":
        conclude = Issuer._conclude

        async def hasty(self: Issuer, ca: Any, planned: Any, intent: Any, signature: bytes) -> Any:
            certificate = assemble(intent.tbs, ca.ca.algorithm, signature)
            if intent.protocol == "est":
                profile, number = intent.profile, _number_of(certificate)
                credential = f"t{number[0]}:" if intent.requester.startswith("token:") else ""
                tell(held=[f"{credential}{profile}/{number}", certificate.hex()])
            return await conclude(self, ca, planned, intent, signature)

        Issuer._conclude = hasty  # type: ignore[method-assign]
    elif variant == "retry-after-error":
        write = Store.write

        async def write_again(self: Store, *arguments: Any) -> None:
            try:
                await write(self, *arguments)
            except Broken:
                tell(error="io")
                await write(self, *arguments)

        writer_module.Store.write = write_again  # type: ignore[method-assign]


def _number_of(certificate: bytes) -> str:
    subject = x509.load_der_x509_certificate(certificate).subject
    return str(subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value).rpartition("-")[2]


class Disk:
    """The preloaded library of ``diskfault.c``."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        for name in ("diskfault_arm", "diskfault_hit", "diskfault_count"):
            getattr(self._library, name).restype = ctypes.c_long

    def arm(self, state: str, fault: dict[str, int]) -> None:
        self._library.diskfault_arm(
            state.encode(), fault["classes"], fault["deed"], fault["error"],
            ctypes.c_long(fault["first"]), ctypes.c_long(fault["last"]), 1,
        )  # fmt: skip

    def report(self) -> None:
        counts = {name: self._library.diskfault_count(number) for name, number in (("write", 1), ("sync", 2), ("name", 4))}
        tell(calls=counts, hit=bool(self._library.diskfault_hit()))


def child(order: dict[str, Any]) -> int:
    signal.alarm(_LONGEST_LIFE)
    break_on_purpose(order.get("variant", "product"))
    disk = Disk() if "fault" in order else None
    if disk is not None:
        disk.arm(order["state"], order["fault"])
    try:
        asyncio.run({"live": live, "prepare": prepare, "check": check}[order["do"]](order))
        status = 0
    except GatewayError as error:  # the daemon would say so and exit non-zero
        tell(error=type(error).__name__, text=str(error))
        status = 3
    except OSError as error:  # as would any other program
        tell(error=type(error).__name__, text=str(error))
        status = 4
    if disk is not None:
        disk.report()
    return status


def main() -> None:
    while line := sys.stdin.readline():
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            if wait_for := order.get("wait_for"):
                while not Path(wait_for).exists():
                    os.sched_yield()
            os._exit(child(order))
        tell(pid=pid)
        _, status = os.waitpid(pid, 0)
        tell(exit=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
