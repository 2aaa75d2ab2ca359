"""The composition root: the whole machine, built from the configuration in one place. Only the command line imports it.

From the bottom up: keys, journal, authority and the operators' socket (:func:`opened`), then what devices talk to
(:func:`serve`). ``opened`` alone is the gateway without a network: commands use it where no daemon runs. Everything is torn
down in the opposite order, and the journal's last record says that it ended in order.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway import demo, listening, settings
from gateway.authority.authority import Authority
from gateway.authority.lifecycle import Ceremony, demo_ca
from gateway.authority.makers import Maker
from gateway.clock import MonotonicClock
from gateway.config import Config
from gateway.endpoints_file import DEMO_WARNING, remove_endpoints, write_endpoints, write_whole
from gateway.errors import AlreadyExists, ConfigError, GatewayError, IntegrityError, NotFound
from gateway.journal.anchor import Anchor, LostAnchor
from gateway.journal.canonical import JsonValue
from gateway.journal.journal import Journal
from gateway.keys import durable
from gateway.keys.pool import KeyPool
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeySpec
from gateway.keys.token_anchor import TokenAnchor
from gateway.keys.wrapping import WrappingKey, credentials_directory
from gateway.notify import ServiceNotifier
from gateway.own_tls import PackageSigner, server_tls
from gateway.pki.algorithms import PrivateKey
from gateway.protocols.est.codec import PREFIX as EST_PREFIX
from gateway.protocols.est.endpoint import EstEndpoint, EstOptions
from gateway.protocols.ocsp.endpoint import OcspEndpoint
from gateway.protocols.publication.endpoint import PublicationEndpoint
from gateway.protocols.server import Listener
from gateway.protocols.tls import ServerTls
from gateway.web.central import central_answers
from gateway.web.control import ControlParts, ControlSocket
from gateway.web.line import line_answers
from gateway.web.report import report
from provisioning.api.endpoint import LineEndpoint
from provisioning.order_files import order_from_toml, sign_file
from provisioning.plant import Plant
from sync.desired import Desired
from sync.joining import is_origin
from sync.member import Member, MemberOptions, stopped_for_good
from sync.orders import remembered

log = logging.getLogger(__name__)

CONTROL_SOCKET = "control.sock"
TRUST_ANCHORS = "trust-anchors.pem"
#: Objects made and not yet gone before the garbage collector looks for cycles among them; Python's 700 are two requests.
_COLLECT_AFTER = 20_000
#: How long a thread waits for a busy one to let go of Python's lock. A commit needs the lock about ten times, and with Python's
#: 5 ms it would wait longer for the event loop than for the disk.
_SWITCH_S = 0.001
#: sun_path of unix(7) has 108 bytes, one of them for the end.
_LONGEST_SOCKET_PATH = 107


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that is open: everything but its listeners."""

    config: Config
    clock: MonotonicClock
    keyring: KeyRing
    journal: Journal
    authority: Authority
    ceremony: Ceremony
    member: Member
    plant: Plant


@dataclass(frozen=True, slots=True)
class Identity:
    """What an auditor notes down of a new gateway."""

    origin: str
    verifier_key: str


async def initialise(config: Config, *, pin: str = "", predecessor: str = "") -> Identity:
    """Make the state directory, the wrapping key, the checkpoint key and the journal with its anchor.

    ``pin`` is for the anchor's token where its URI has no source for one; ``predecessor`` is the origin of the journal that is
    replaced. Raises AlreadyExists; ConfigError for what is no origin; SignerUnavailable and PinError when that token is out of
    reach.
    """
    state = config.gateway.state
    _check_state_path(state)
    if predecessor and not is_origin(predecessor):
        raise ConfigError("--predecessor is the origin of the old journal, like plant-7/1a2b3c4d5e6f; central lists it")
    options = settings.journal_options(config)
    if options.path.exists():
        raise AlreadyExists(f"there is a gateway in {state} already")
    durable.make_directory(state)
    keyring = _keyring(config, _wrapping(config))
    try:
        if pin and (uri := settings.anchor_uri(config)) is not None:
            await keyring.token(uri.format()).unlock(pin)
        key = await asyncio.to_thread(keyring.software.load_or_generate, settings.CHECKPOINT_KEY, KeySpec.ED25519)
        incarnation = secrets.token_bytes(16)
        origin = f"{config.gateway.name}/{incarnation.hex()[:12]}"
        journal = await Journal.create(
            options, origin=origin, key_name=origin, key=_checkpoint_key(key), clock=MonotonicClock(), random=incarnation,
            anchor=_token_anchor(config, keyring), predecessor=predecessor,
        )  # fmt: skip
        await journal.close()
    finally:
        await keyring.close()
    return Identity(journal.genesis.origin, journal.genesis.verifier_key)


async def prepare_demo(config: Config) -> None:
    """Make the demo's gateway and its CA under a throw-away root, as far as they are not there yet."""
    if not settings.journal_options(config).path.exists():
        await initialise(config)
    root_crl = config.gateway.state / demo.FOLDER / demo.ROOT_CRL
    if root_crl.exists():
        return
    without_parents = replace(config, crl=replace(config.crl, parents=()))  # the root's list is what is made here
    async with opened(without_parents) as gateway:
        if gateway.authority.generations.all:
            return  # a power cut came just before the list was written; it is gone with the root's key
        root = await demo_ca(gateway.ceremony, gateway.clock, uri=config.ca.key, name="Demo", operator="demo")
        write_whole(root_crl, root.crl)


@asynccontextmanager
async def opened(config: Config, *, base_url: str | None = None) -> AsyncIterator[Gateway]:
    """The gateway without listeners, its control socket answering. ``base_url`` overrides the configured one.

    Raises NotFound (no gateway here), OperatorError (another process has it), ConfigError, IntegrityError, PinError.
    """
    state = config.gateway.state
    _check_state_path(state)
    if not settings.journal_options(config).path.exists():
        raise NotFound(f"there is no gateway in {state}; edge-gateway --state {state} init prepares one")
    policy = settings.policy(config)
    async with AsyncExitStack() as closing:
        clock = MonotonicClock()
        wrapping = _wrapping(config)
        keyring = _keyring(config, wrapping)
        closing.push_async_callback(keyring.close)
        key = await asyncio.to_thread(keyring.software.load, settings.CHECKPOINT_KEY)
        journal = await Journal.open(
            settings.journal_options(config), key=_checkpoint_key(key), clock=clock, anchor=_token_anchor(config, keyring)
        )
        closing.push_async_callback(journal.close)
        if reason := await stopped_for_good(journal):
            journal.fence(reason)
        options = MemberOptions(
            config.gateway.name, config.ca.key, state / "central", config.central.urls, config.central.retention_days
        )
        memory = await remembered(journal, options.directory)
        own = settings.own_profiles(config)
        in_force, source = memory.policy(policy, own)
        pool = KeyPool(state / "pool", wrapping, settings.pool_sizes(config), clock)
        authority = await Authority.open(
            replace(
                settings.authority_options(config, settings.base_url(config) if base_url is None else base_url),
                policy_source=source,
            ),
            journal=journal, keyring=keyring, keys=keyring.software, pool=pool, policy=in_force, clock=clock,
        )  # fmt: skip
        closing.push_async_callback(authority.issuer.finish)
        ceremony = Ceremony(journal, keyring, clock)
        member = Member(
            options, memory, journal=journal, authority=authority, ceremony=ceremony, keys=keyring.software,
            key=_checkpoint_key(key), clock=clock, local=policy, own=own, activated=_activation(config, authority),
        )  # fmt: skip
        plant = await Plant.open(config.line, authority, state, lambda: member.central_keys)
        member.hand_over("work orders", lambda desired: plant.take_up(desired.orders))
        gateway = Gateway(config, clock, keyring, journal, authority, ceremony, member, plant)
        control = _control_socket(gateway)
        await control.start(state / CONTROL_SOCKET)
        closing.push_async_callback(control.close)
        yield gateway


async def serve(config: Config, *, demonstration: bool = False) -> None:
    """Serve devices until SIGTERM or SIGINT. Raises what ended it otherwise, JournalFailed first of all."""
    notifier = ServiceNotifier()
    stop = _stop_signal()
    http, https = listening.bind("http", config.listen.http), listening.bind("https", config.listen.https)
    ports = listening.port(http), listening.port(https)
    async with AsyncExitStack() as closing:
        gateway = await closing.enter_async_context(opened(config, base_url=settings.base_url(config, ports[0])))
        authority, clock = gateway.authority, gateway.clock
        limits = settings.listener_limits(config)
        est = EstEndpoint(
            authority,
            settings.est_options(config, authority.policy.current),
            clock,
            package_signer=PackageSigner(authority.delegated),
            limits=limits,
        )
        public = (OcspEndpoint(authority, clock, limits), PublicationEndpoint(authority, clock))
        tls = server_tls(authority)
        gateway.member.watch(_obey(gateway, est, tls))
        if http is not None:
            plain = Listener("http", public, limits=limits)
            await plain.start(sock=http)
            closing.push_async_callback(plain.close)
        if https is not None:
            plant = gateway.plant
            stations = LineEndpoint(authority, plant.units, plant.line, plant.papers, on_order=plant.want_identity)
            secure = Listener("https", (est, stations, *public), limits=limits, tls=tls)
            await secure.start(sock=https)
            closing.push_async_callback(secure.close)
            closing.callback(stations.close)
        await authority.pool.start()
        closing.push_async_callback(authority.pool.close)
        if authority.generations.all:
            authority.delegated.want([settings.tls_spec(config)])
            gateway.plant.want_identity()
            await authority.delegated.renew_due()
            await authority.publisher.publish_due()
        write_trust_anchors(gateway.config, authority)
        endpoints = _endpoints(gateway, *ports)
        if demonstration:
            token = await demo.token(authority.tokens, config.gateway.state)
            endpoints["demo"] = demo.write_example(config.gateway.state, str(endpoints["https"]), token)
        write_endpoints(config.gateway.state, endpoints)
        closing.callback(remove_endpoints, config.gateway.state)
        log.info("READY %s %s%s", endpoints["https"], endpoints["http"], f" {DEMO_WARNING}" if demonstration else "")
        _tune_interpreter()
        notifier.ready("serving")
        closing.callback(notifier.stopping)
        await _until_stopped(gateway, stop, notifier)


def _tune_interpreter() -> None:
    """For one busy event loop beside the threads that write the journal and talk to tokens."""
    gc.collect()
    gc.freeze()  # what was built up to here stays for good, so the collector need not look at it again
    gc.set_threshold(_COLLECT_AFTER)
    sys.setswitchinterval(_SWITCH_S)


async def _until_stopped(gateway: Gateway, stop: asyncio.Event, notifier: ServiceNotifier) -> None:
    """Run the background work until the stop signal; a failed journal or a fault in the work ends it with its error."""
    try:
        async with asyncio.TaskGroup() as tasks:
            work = [
                tasks.create_task(gateway.authority.run(), name="authority"),
                tasks.create_task(gateway.member.run(), name="central"),
                tasks.create_task(gateway.plant.run(), name="line"),
                tasks.create_task(_watch_journal(gateway.journal), name="journal-failure"),
                tasks.create_task(_feed_watchdog(notifier), name="watchdog"),
            ]
            await stop.wait()
            log.info("stopping")
            for task in work:
                task.cancel()
    except ExceptionGroup as group:
        raise _first(group) from group


async def _watch_journal(journal: Journal) -> None:
    await asyncio.shield(journal.failure)  # raises JournalFailed


async def _feed_watchdog(notifier: ServiceNotifier) -> None:
    while notifier.watchdog_interval is not None:
        notifier.watchdog()
        await asyncio.sleep(notifier.watchdog_interval)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The error to report: one of ours before any other."""
    ours, others = group.split(GatewayError)
    chosen: Exception = (ours or others or group).exceptions[0]
    return _first(chosen) if isinstance(chosen, ExceptionGroup) else chosen


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _keyring(config: Config, wrapping: WrappingKey) -> KeyRing:
    return KeyRing(config.gateway.state / "keys", wrapping, credentials=credentials_directory())


def _token_anchor(config: Config, keyring: KeyRing) -> Anchor | None:
    """The journal's anchor where it lies on a token; None where the journal's options name a file."""
    uri = settings.anchor_uri(config)
    if uri is None:
        return None
    try:
        return TokenAnchor(keyring.token(uri.format()), uri)
    except ConfigError as error:  # no such module, no credentials in a shell: as with the CA's key, no reason to stand still
        return LostAnchor(uri.format(), str(error))


@asynccontextmanager
async def journal_anchor(config: Config) -> AsyncIterator[Anchor | None]:
    """The journal's anchor for a command that opens no gateway."""
    if settings.anchor_uri(config) is None:
        yield settings.journal_options(config).opened_anchor()
        return
    keyring = _keyring(config, _wrapping(config))
    try:
        yield _token_anchor(config, keyring)
    finally:
        await keyring.close()


def _wrapping(config: Config) -> WrappingKey:
    path = config.gateway.state / "keys" / "wrapping.key"
    return WrappingKey.load_or_create(path, credentials=credentials_directory())


def checkpoint_public_key(config: Config) -> Ed25519PublicKey | None:
    """The key that signs this gateway's checkpoints; ``None`` where the state directory has none, as beside a lone journal."""
    keys = config.gateway.state / "keys"
    if not (keys / f"{settings.CHECKPOINT_KEY}.key").exists():
        return None
    return _checkpoint_key(_keyring(config, _wrapping(config)).software.load(settings.CHECKPOINT_KEY)).public_key()


def _checkpoint_key(key: PrivateKey) -> Ed25519PrivateKey:
    if not isinstance(key, Ed25519PrivateKey):
        raise IntegrityError("the checkpoint key is not an Ed25519 key")
    return key


def _check_state_path(state: Path) -> None:
    if len(os.fsencode(state / CONTROL_SOCKET)) > _LONGEST_SOCKET_PATH:
        raise ConfigError(f"the state directory's path is too long for a socket in it: {state}")


def _activation(config: Config, authority: Authority) -> Callable[[], Awaitable[None]]:
    """What is to be done when a CA certificate was imported while the gateway runs."""
    spec = settings.tls_spec(config)

    async def activated() -> None:
        await authority.refresh_generations()
        authority.delegated.want([spec])
        write_trust_anchors(config, authority)

    return activated


def _obey(gateway: Gateway, est: EstEndpoint, tls: ServerTls) -> Callable[[Desired], None]:
    """What of central's document the endpoints must know: whose IDevIDs may ask, and which address means which profile."""
    config, makers = gateway.config, gateway.authority.makers

    def obey(desired: Desired) -> None:
        certificates = desired.maker_certificates()
        makers.put(Maker("central", certificates))
        tls.add_trust_anchors(certificates)
        if desired.policy is not None:
            est.use(EstOptions(desired.policy.default_profile or config.est.profile, desired.policy.labels))

    return obey


def _control_socket(gateway: Gateway) -> ControlSocket:
    authority = gateway.authority
    return ControlSocket(
        ControlParts(
            authority=authority,
            journal=gateway.journal,
            ceremony=gateway.ceremony,
            keyring=gateway.keyring,
            ca_key=gateway.config.ca.key,
            status=lambda: report(
                gateway.clock,
                gateway.journal,
                authority,
                gateway.ceremony,
                central=gateway.member.report(),
                line=gateway.plant.report(),
            ),
            activated=_activation(gateway.config, authority),
            more=(*central_answers(gateway.member), *line_answers(gateway.plant)),
        )
    )


def _endpoints(gateway: Gateway, http: int, https: int) -> dict[str, JsonValue]:
    """What ``endpoints.json`` says. An address is empty when its listener is off."""
    config, journal = gateway.config, gateway.journal
    secure = settings.url("https", config, https) if https else ""
    plain = settings.url("http", config, http) if http else ""
    est = f"{secure}{EST_PREFIX}" if secure else ""
    state = config.gateway.state
    return {
        "format": 1,
        "https": secure,
        "http": plain,
        "est": est,
        "est_labels": {label: f"{est}/{label}" for label in config.est.labels} if est else {},
        "line": f"{secure}/api/v1/line" if secure else "",
        "ocsp": f"{plain}/ocsp" if plain else "",
        "crls": [f"{plain}/crl/{each.name}" for each in gateway.authority.publisher.health()] if plain else [],
        "ca_certificates": f"{plain}/ca/chain.p7c" if plain else "",
        "trust_anchors": str(state / TRUST_ANCHORS),
        "control_socket": str(state / CONTROL_SOCKET),
        "journal": {"origin": journal.genesis.origin, "verifier_key": journal.genesis.verifier_key},
    }


def sign_order(order: str, key_pem: bytes, origin: str, key_name: str) -> tuple[bytes, str]:
    """A work order (TOML) signed for the gateway ``origin``, and the vkey that it must list. Raises ConfigError."""
    return sign_file(order_from_toml(order, origin), key_pem, key_name)


def write_trust_anchors(config: Config, authority: Authority) -> None:
    """``STATE/trust-anchors.pem``: the roots, or the issuing CAs themselves where the root is not known here."""
    anchors = dict.fromkeys((each.chain or (each.certificate,))[-1] for each in authority.generations.all)
    pem = "".join(map(ssl.DER_cert_to_PEM_cert, anchors))
    write_whole(config.gateway.state / TRUST_ANCHORS, pem.encode())
