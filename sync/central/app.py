"""The composition root of central: the whole machine, built from the configuration in one place.

:func:`opened` is central without a network, with its control socket for the command line; :func:`serve` adds the listeners
and the background work. Several processes may serve one PostgreSQL database when they share the keys (``STATE/keys``); the
ports, the socket and the TLS certificate are each process's own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from gateway import listening
from gateway.clock import MonotonicClock, elapsed_ms
from gateway.endpoints_file import remove_endpoints, write_endpoints, write_whole
from gateway.errors import ConfigError, NotReady, Unavailable
from gateway.journal.canonical import JsonValue
from gateway.keys import durable
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeySpec
from gateway.keys.wrapping import WrappingKey, credentials_directory
from gateway.notify import ServiceNotifier
from gateway.pki.names import name_from_text
from gateway.protocols.ocsp.endpoint import OcspEndpoint
from gateway.protocols.server import Endpoint, Limits, Listener
from gateway.protocols.tls import ServerTls
from sync.central import running
from sync.central.alerts import WatchOptions
from sync.central.authority import AuthorityOptions, CentralAuthority, Identity
from sync.central.bundle_identity import BundleIdentity
from sync.central.bundles import Bundles
from sync.central.config import SQLITE, Config
from sync.central.desired_state import DesiredOptions, DesiredStates
from sync.central.desk import Desk, DeskOptions
from sync.central.founding import Foundation
from sync.central.limits import Allowance
from sync.central.limits import Limits as IngestLimits
from sync.central.lists import CentralLists
from sync.central.operations import Operations
from sync.central.projector import Projector
from sync.central.publication import CentralPublication
from sync.central.registry import Registry, RegistryOptions
from sync.central.revocations import Revocations
from sync.central.routes import Parts
from sync.central.server_identity import ServerIdentity, TlsIdentity
from sync.central.service import Ingest
from sync.central.status import CentralResponder
from sync.central.store import CentralStore
from sync.central.store_sqlite import SqliteStore
from sync.central.sync_api import SyncEndpoint
from sync.central.work_orders import WorkOrders

log = logging.getLogger(__name__)
CONTROL_SOCKET = "control.sock"
TRUST_ANCHORS = "trust-anchors.pem"
DATABASE = "central.db"
OPERATORS = "operators.json"
#: Join requests looked at in a second, whoever sends them: each costs a signature check, or one of the root's.
_JOINS_PER_S = 5
_RETRY_S = 1.0
_PASSWORD_CREDENTIAL = "credential"  # noqa: S105 - where the password is, not what


@dataclass(frozen=True, slots=True)
class Central:
    """A central that is open: everything but its listeners. The parts are what other interfaces (REST, pages) build on."""

    config: Config
    clock: MonotonicClock
    keyring: KeyRing
    store: CentralStore
    authority: CentralAuthority
    desired: DesiredStates
    registry: Registry
    revocations: Revocations
    lists: CentralLists
    responder: CentralResponder
    ingest: Ingest
    projector: Projector
    operations: Operations
    desk: Desk
    bundle_identity: BundleIdentity


async def initialise(
    config: Config,
    *,
    key_spec: KeySpec = KeySpec.P256,
    subordinate: bool = False,
    adopt: bool = False,
    pin: str = "",
) -> Identity:
    """Make keys, database and, unless ``subordinate``, the root's own certificate.

    What an interrupted attempt left is taken up, on a token only to ``adopt`` it. ``pin`` is for the root key's token where its
    URI has no source for one. Raises AlreadyExists.
    """
    async with _foundation(config, pin) as foundation:
        identity = await foundation.begin(config.central.name, config.root.key, key_spec, adopt=adopt)
        if not subordinate:
            identity = await foundation.self_signed(_root_subject(config), config.root.validity_days)
        return identity


async def ca_request(config: Config, *, pin: str = "") -> bytes:
    """The CSR (DER) for a company's root. Raises NotReady, AlreadyExists."""
    async with _foundation(config, pin) as foundation:
        return await foundation.request(_root_subject(config))


async def ca_import(config: Config, certificate: bytes, chain: tuple[bytes, ...], *, pin: str = "") -> Identity:
    """Take the certificate that a company's root made. Raises OperatorError."""
    async with _foundation(config, pin) as foundation:
        return await foundation.take(certificate, chain)


@asynccontextmanager
async def opened(config: Config, *, ports: tuple[int, int] = (0, 0)) -> AsyncIterator[Central]:
    """Central without listeners, its control socket answering. ``ports`` are those of the HTTP and HTTPS listeners.

    Raises NotReady (no central here), OperatorError (another process has it), ConfigError, IntegrityError, PinError.
    """
    state = config.central.state
    if config.database.url == SQLITE and not (state / DATABASE).exists():
        raise NotReady(f"there is no central in {state}: edge-central --state {state} init makes one")
    async with AsyncExitStack() as closing:
        clock = MonotonicClock()
        keyring = KeyRing(state / "keys", _wrapping(state), credentials=credentials_directory())
        closing.push_async_callback(keyring.close)
        store = await _open_store(config)
        closing.push_async_callback(store.close)
        base_url = _base_url(config, ports[0])
        authority = await CentralAuthority.open(store, keyring, clock, _authority_options(config, base_url))
        desired = DesiredStates(store, authority, clock, DesiredOptions(config.gateways.document_days))
        urls = config.central.urls or ((_url("https", config, ports[1]),) if ports[1] else ())
        identity = BundleIdentity(store, authority, keyring.software, clock)
        registry = Registry(
            store, authority, desired, clock, RegistryOptions(urls, config.gateways.automatic_renewal),
            prepare=identity.try_renew,
        )  # fmt: skip
        lists = CentralLists(
            store, authority, clock, validity_hours=config.status.crl_validity_hours, base_url=base_url
        )  # fmt: skip
        revocations = Revocations(store, desired, clock, touched=lists.touch)
        responder = CentralResponder(
            store, authority.ocsp_key, clock, validity_s=config.status.ocsp_validity_hours * 3600
        )  # fmt: skip
        limits = IngestLimits(batches=config.limits.batches, records_per_s=config.limits.records_per_second)
        ingest = Ingest(store, cosign=authority.cosign, clock=clock, limits=limits)
        projector = Projector(store, clock, revoke=revocations.revoke, busy=lambda: ingest.busy)
        bundles = Bundles(store, authority, ingest, lists, clock, identity=identity)
        orders = WorkOrders(store, desired, clock)
        operations = Operations(
            store=store, authority=authority, desired=desired, registry=registry, revocations=revocations, bundles=bundles,
            orders=orders, clock=clock,
        )  # fmt: skip
        parts = Parts(store, clock, desired, registry, revocations, bundles, orders)
        watch = WatchOptions(config.alerts.silence_hours)
        desk = Desk(parts, DeskOptions(operators_file(config), config.adapters, config.folder, watch))
        central = Central(
            config, clock, keyring, store, authority, desired, registry, revocations, lists, responder, ingest, projector,
            operations, desk, identity,
        )  # fmt: skip
        await operations.start(state / CONTROL_SOCKET)
        closing.push_async_callback(operations.close)
        yield central


def operators_file(config: Config) -> Path:
    """Who may use the REST interface; without this file nobody may."""
    return config.operators or config.central.state / OPERATORS


def endpoints(central: Central) -> tuple[tuple[Endpoint, ...], tuple[Endpoint, ...]]:
    """What is answered over HTTP, and over HTTPS."""
    joins = Allowance(_JOINS_PER_S, 0, elapsed_ms())
    public: tuple[Endpoint, ...] = (
        OcspEndpoint(central.responder, central.clock),
        CentralPublication(central.store, central.authority, central.lists, central.clock),
    )
    sync = SyncEndpoint(central.ingest, central.registry, central.lists, joins, elapsed_ms)
    return public, (sync, *public, *central.desk.endpoints)


async def serve(config: Config) -> None:
    """Serve gateways until SIGTERM or SIGINT. Raises what ended it otherwise, StoreFailed first of all."""
    notifier, stop = ServiceNotifier(), running.stop_signal()
    http, https = listening.bind("http", config.listen.http), listening.bind("https", config.listen.https)
    ports = listening.port(http), listening.port(https)
    async with AsyncExitStack() as closing:
        central = await closing.enter_async_context(opened(config, ports=ports))
        plain_endpoints, secure_endpoints = endpoints(central)
        limits = Limits(
            connections=config.limits.connections, connections_per_peer=config.limits.connections_per_peer
        )  # fmt: skip
        with suppress(Unavailable):  # the root's key is away: the lists that are there are served, and run() goes on trying
            await central.lists.publish_due()
        if http is not None:
            plain = Listener("http", plain_endpoints, limits=limits)
            await plain.start(sock=http)
            closing.push_async_callback(plain.close)
        tls = ServerTls()
        tls.add_trust_anchors((central.authority.identity.certificate,))
        identity = _server_identity(central, tls)
        if not await _certified(identity, stop, notifier):
            return
        if https is not None:
            secure = Listener("https", secure_endpoints, limits=limits, tls=tls)
            await secure.start(sock=https)
            closing.push_async_callback(secure.close)
        state = config.central.state
        write_endpoints(state, _endpoints(central, *ports))
        closing.callback(remove_endpoints, state)
        log.info("READY %s %s", _url("https", config, ports[1]), _url("http", config, ports[0]))
        notifier.ready("serving")
        closing.callback(notifier.stopping)
        work = (
            ("desired-documents", central.desired.run()), ("registry", central.registry.run()), ("lists", central.lists.run()),
            ("projector", central.projector.run()), ("tls-certificate", identity.run()),
            ("bundle-certificate", central.bundle_identity.run()),
            ("database-failure", running.watch(central.store.failure)), ("watchdog", running.feed_watchdog(notifier)),
            *central.desk.work(),
        )  # fmt: skip
        await running.until_stopped(work, stop)


async def _certified(identity: ServerIdentity, stop: asyncio.Event, notifier: ServiceNotifier) -> bool:
    """Wait for a TLS certificate, which needs the root's key where there is none yet; False when stopped before.

    The control socket answers meanwhile, so a person can enter the token's PIN.
    """
    while not stop.is_set():
        try:
            await identity.renew_due()
            return True
        except Unavailable as error:
            log.warning("central waits for its root's key, to certify its own TLS key: %s", error)
            notifier.ready("waiting for the root's key: edge-central unlock")
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _RETRY_S)
    return False


def _server_identity(central: Central, tls: ServerTls) -> ServerIdentity:
    def use(identity: TlsIdentity) -> None:
        tls.replace_certificate(identity.certificate, identity.chain, identity.key)

    config = central.config
    return ServerIdentity(
        store=central.store, authority=central.authority, keys=central.keyring.software, clock=central.clock,
        names=tls_names(config), validity_hours=config.tls.validity_hours, use=use,
    )  # fmt: skip


@asynccontextmanager
async def _foundation(config: Config, pin: str = "") -> AsyncIterator[Foundation]:
    state = config.central.state
    durable.make_directory(state)
    keyring = KeyRing(state / "keys", _wrapping(state), credentials=credentials_directory())
    try:
        if pin:
            await keyring.token(config.root.key).unlock(pin)
        store = await _open_store(config)
        try:
            yield Foundation(store, keyring, MonotonicClock())
        finally:
            await store.close()
    finally:
        await keyring.close()


def _root_subject(config: Config) -> x509.Name:
    return name_from_text(config.root.subject or f"CN={config.central.name} Root CA")


async def _open_store(config: Config) -> CentralStore:
    if config.database.url == SQLITE:
        return await SqliteStore.open(config.central.state / DATABASE)
    try:
        from sync.central.store_postgres import PostgresStore
    except ImportError as error:
        raise ConfigError("database.url names PostgreSQL, whose driver is not installed (edge-gateway[postgresql])") from error
    return await PostgresStore.open(config.database.url, password=_database_password(config))


def _database_password(config: Config) -> str | None:
    kind, _, name = config.database.password.partition(":")
    if not kind:
        return None
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if kind == _PASSWORD_CREDENTIAL and (not directory or "/" in name):
        raise ConfigError("database.password: only a systemd service has credentials, named without a path")
    path = Path(directory, name) if kind == _PASSWORD_CREDENTIAL else config.folder / name
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"database.password: {path} cannot be read") from error


def _authority_options(config: Config, base_url: str) -> AuthorityOptions:
    return AuthorityOptions(
        config.central.name, base_url, config.gateways.ca_validity_days, config.root.crl_validity_hours
    )  # fmt: skip


def _wrapping(state: Path) -> WrappingKey:
    return WrappingKey.load_or_create(state / "keys" / "wrapping.key", credentials=credentials_directory())


def tls_names(config: Config) -> Sequence[str]:
    """The names in the TLS certificate; the first one stands in URLs."""
    return config.tls.names or tuple(dict.fromkeys((socket.gethostname(), "localhost", "127.0.0.1")))


def _base_url(config: Config, http_port: int) -> str:
    """Where lists and OCSP are found, without a final slash; empty when there is no such address."""
    if config.central.base_url:
        return config.central.base_url.rstrip("/")
    port = http_port or config.listen.http.port
    return _url("http", config, port) if config.listen.http.enabled and port else ""


def _url(scheme: str, config: Config, port: int) -> str:
    name = tls_names(config)[0]
    return f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"


def _endpoints(central: Central, http: int, https: int) -> dict[str, JsonValue]:
    """What ``endpoints.json`` says. An address is empty when its listener is off."""
    config, state = central.config, central.config.central.state
    anchors = state / TRUST_ANCHORS
    write_whole(anchors, CentralPublication(central.store, central.authority, central.lists, central.clock).trust_anchors())
    plain = _url("http", config, http) if http else ""
    return {
        "format": 1,
        "https": _url("https", config, https) if https else "",
        "http": plain,
        "ocsp": f"{plain}/ocsp" if plain else "",
        "root_crl": f"{plain}/crl/root.crl" if plain else "",
        "trust_anchors": str(anchors),
        "control_socket": str(state / CONTROL_SOCKET),
        "central": {"name": central.authority.identity.name, "verifier_key": central.authority.identity.vkey},
    }
