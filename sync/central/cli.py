"""The ``edge-central`` command: every command, its options, its help, and what it prints.

As with ``edge-gateway`` a running daemon does the work, asked over ``STATE/control.sock``; without one a command opens the same
central without its listeners, for as long as it takes. ``init`` and ``ca`` need that no daemon runs.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.cli.ceremony import date
from gateway.cli.context import ExitCode, JsonObject, exit_code, printable, read_input, read_pin, write_output
from gateway.errors import ConfigError, GatewayError, OperatorError
from gateway.journal.canonical import JsonValue
from gateway.keys.signer import KeySpec
from gateway.telemetry.logs import set_up_logging
from gateway.web.unix_client import ControlClient, connected, daemon_answers
from sync.central import app
from sync.central.config import Config, load_config
from sync.central.operators import OPERATOR, VIEWER, add_operator, remove_operator
from sync.central.parser import build_parser

#: Where ``--state`` alone finds a configuration.
STATE_CONFIG = "central.toml"


class Words:
    """What every command gets: its arguments, its configuration, and a way to speak."""

    def __init__(self, arguments: argparse.Namespace, config: Config) -> None:
        self.arguments, self.config, self.as_json = arguments, config, bool(arguments.json)

    def text(self, name: str) -> str:
        """A text argument; empty when it was not given."""
        value: object = getattr(self.arguments, name)
        return "" if value is None else str(value)

    def path(self, name: str) -> str:
        """A path argument, absolute, because the daemon's working directory is another."""
        return str(Path(self.text(name)).absolute())

    def show(self, result: JsonObject, words: str) -> None:
        """The result: as one JSON object with ``--json``, else in words."""
        print(json.dumps(result, indent=2, sort_keys=True) if self.as_json else printable(words))

    @asynccontextmanager
    async def central(self) -> AsyncIterator[ControlClient]:
        """A client of the running daemon, or of a central opened for this command."""
        path = self.config.central.state / app.CONTROL_SOCKET
        if daemon_answers(path):
            async with connected(path) as client:
                yield client
            return
        async with app.opened(self.config), connected(path) as client:
            yield client


Handler: TypeAlias = Callable[[Words], Awaitable[int]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        words = Words(arguments, _config(arguments))
        set_up_logging(words.config.central.log_level if arguments.command == "run" else "warning")
        return asyncio.run(_run(HANDLERS[arguments.command], words))
    except GatewayError as error:
        _report(error, as_json=arguments.json)
        return exit_code(error)
    except BrokenPipeError:
        sys.stderr.close()
        return ExitCode.REFUSED
    except OSError as error:
        _report(OperatorError(f"{error.filename or 'the system'}: {error.strerror or error}"), as_json=arguments.json)
        return ExitCode.REFUSED
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells say it


async def _run(handler: Handler, words: Words) -> int:
    return await handler(words)


def _config(arguments: argparse.Namespace) -> Config:
    """``--config``, else the one inside the state directory, else the defaults."""
    state: Path | None = arguments.state.absolute() if arguments.state else None
    path: Path | None = arguments.config
    if path is None and state is not None and (state / STATE_CONFIG).exists():
        path = state / STATE_CONFIG
    config = load_config(path) if path is not None else Config()
    return config if state is None else config.with_state(state)


def _report(error: GatewayError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": type(error).__name__, "detail": str(error), "hint": error.hint}), file=sys.stderr)
    else:
        print(printable(f"edge-central: {error}\n    {error.hint}"), file=sys.stderr)


# The commands.


async def init(words: Words) -> int:
    spec = KeySpec(words.text("key_type"))
    subordinate = bool(words.arguments.subordinate)
    identity = await app.initialise(
        words.config, key_spec=spec, subordinate=subordinate, adopt=bool(words.arguments.adopt), pin=_pin(words)
    )
    following = "edge-central ca csr" if subordinate else "edge-central run"
    words.show(
        {"name": identity.name, "verifier_key": identity.vkey, "root_key": identity.root_uri, "state": _state(words)},
        f"central {identity.name} is in {_state(words)}\nits public key, for auditors: {identity.vkey}\nnext: {following}",
    )
    return ExitCode.OK


def _pin(words: Words) -> str:
    return read_pin(words.text("pin")) if words.text("pin") else ""


async def ca_csr(words: Words) -> int:
    request = x509.load_der_x509_csr(await app.ca_request(words.config, pin=_pin(words)))
    write_output(words.text("output"), request.public_bytes(Encoding.PEM))
    if words.text("output") != "-":
        words.show({"output": words.text("output")}, "next: edge-central ca import, with the certificate and its issuers")
    return ExitCode.OK


async def ca_import(words: Words) -> int:
    try:
        certificates = x509.load_pem_x509_certificates(read_input(words.text("certificates")))
    except ValueError as error:
        raise ConfigError("these are no PEM certificates") from error
    first, *above = (each.public_bytes(Encoding.DER) for each in certificates)
    identity = await app.ca_import(words.config, first, tuple(above), pin=_pin(words))
    words.show({"name": identity.name}, f"central {identity.name} has its certificate\nnext: edge-central run")
    return ExitCode.OK


async def unlock(words: Words) -> int:
    async with words.central() as central:
        answer = await central.post("/unlock", {"pin": read_pin(words.text("pin"))})
    words.show(answer, f"the root's key is {answer['key']}")
    return ExitCode.OK


async def run(words: Words) -> int:
    await app.serve(words.config)
    return ExitCode.OK


async def status(words: Words) -> int:
    async with words.central() as central:
        answer, alerts = await central.get("/status"), _objects((await central.get("/alerts"))["alerts"])
    root = answer["root"] if isinstance(answer["root"], dict) else {}
    lines = [
        f"central    {answer['name']}",
        f"root       {root['subject']}, until {date(root['not_after'])}, key {root['key']} {root['detail']}".rstrip(),
        f"gateways   {answer['gateways']}, {answer['fenced']} of them fenced",
        f"records    {answer['records']}, with {answer['certificates']} certificates",
        f"alerts     {answer['alerts']}",
        *(f"  {each['kind']}: {each['origin']}: {each['text']}" for each in alerts),
    ]
    words.show({**answer, "open_alerts": [*alerts]}, "\n".join(lines))
    return ExitCode.OK


async def gateways(words: Words) -> int:
    async with words.central() as central:
        answer = await central.get("/gateways")
    lines = [_gateway(each) for each in _objects(answer["gateways"])]
    words.show(answer, "\n".join(lines) or "no gateway has joined yet; edge-central code makes a code for one")
    return ExitCode.OK


def _gateway(each: JsonObject) -> str:
    state = "fenced: " + str(each["fenced"]) if each["fenced"] else "closed: " + str(each["closed"]) if each["closed"] else "ok"
    document = f"document {each['applied']} of {each['document']}"
    group = f", group {each['group']}" if each["group"] else ""
    return f"{each['origin']}{group}  {each['records']} records, {document}, seen {date(each['seen'])}  {state}"


async def _for_gateway(words: Words, path: str, body: JsonObject, done: str) -> int:
    async with words.central() as central:
        answer = await central.post(path, {"origin": words.text("origin"), **body})
    words.show(answer, f"{words.text('origin')} {done}")
    return ExitCode.OK


async def group(words: Words) -> int:
    return await _for_gateway(words, "/gateways/group", {"group": words.text("group")}, "is in the group now")


async def approve(words: Words) -> int:
    return await _for_gateway(words, "/gateways/approve", {}, "gets its CA certificate with the next document")


async def retire(words: Words) -> int:
    body: JsonObject = {"reason": words.text("reason"), "revoke": words.text("revoke_ca")}
    return await _for_gateway(words, "/gateways/retire", body, "is retired")


async def fence(words: Words) -> int:
    if not words.arguments.yes:
        raise ConfigError("fencing a gateway is final: it must join again to issue anything; say --yes")
    return await _for_gateway(words, "/gateways/fence", {"reason": words.text("reason")}, "is fenced")


async def code(words: Words) -> int:
    hours = words.arguments.hours or words.config.gateways.code_hours
    async with words.central() as central:
        if words.arguments.withdraw:
            answer = await central.post("/codes/withdraw", {"name": words.text("withdraw")})
            words.show(answer, f"the code {answer['name']} is good for nothing now")
            return ExitCode.OK
        answer = await central.post("/codes", {"group": words.text("group"), "hours": hours})
    words.show(
        answer, f"{answer['code']}\n\ngood for one gateway until {date(answer['expires'])}; its name is {answer['name']}"
    )
    return ExitCode.OK


async def join(words: Words) -> int:
    request = read_input(words.text("request"))
    async with words.central() as central:
        answer = await central.post("/joins", {"request": base64.b64encode(request).decode()})
    write_output(words.text("answer"), base64.b64decode(str(answer["answer"])))
    if words.text("answer") != "-":
        words.show({"answer": words.text("answer")}, "carry the answer back, then: edge-gateway join --answer FILE")
    return ExitCode.OK


async def take(words: Words) -> int:
    async with words.central() as central:
        done = await central.post("/bundles", {"source": words.path("source"), "target": words.path("answer")})
    words.show(done, f"records {done['start']} to {done['stop']} of {done['origin']}; carry {done['answer']} back")
    return ExitCode.OK


async def search(words: Words) -> int:
    body: JsonObject = {name: words.text(name) for name in ("text", "serial", "device", "origin", "profile")}
    found: list[JsonObject] = []
    async with words.central() as central:
        after = ""
        while len(found) < words.arguments.limit:
            page = await central.post("/certificates/search", {**body, "after": after})
            found += _objects(page["certificates"])
            after = str(page["after"])
            if not after:
                break
    lines = [_certificate(each) for each in found]
    words.show({"certificates": [*found]}, "\n".join(lines) or "no certificate is like that")
    return ExitCode.OK


def _certificate(each: JsonObject) -> str:
    return f"{each['serial']}  {_state_of(each)}  {each['subject']}  {each['profile']}  {each['origin']}"


def _state_of(certificate: JsonObject) -> str:
    reason = f" ({certificate['reason']})" if certificate["reason"] else ""
    return f"{certificate['state']}{reason}"


async def revoke(words: Words) -> int:
    body: JsonObject = {"serial": words.text("serial"), "issuer": words.text("issuer")}
    async with words.central() as central:
        if words.arguments.release:
            answer = await central.post("/releases", body)
        else:
            answer = await central.post("/revocations", {**body, "reason": words.text("reason")})
    words.show(answer, f"{answer['serial']} of {answer['origin']}: {_state_of(answer)}; its gateway hears of it when it calls")
    return ExitCode.OK


async def settings(words: Words) -> int:
    scope, name, value = words.text("scope"), words.text("name"), words.text("value")
    async with words.central() as central:
        if not value:
            answer = await central.post("/settings/read", {"scope": scope})
            words.show(answer, json.dumps(answer["settings"], indent=2, sort_keys=True))
            return ExitCode.OK
        try:
            content: JsonValue = json.loads(read_input(value))
        except ValueError as error:
            raise ConfigError(f"{value} is not JSON") from error
        answer = await central.post("/settings", {"scope": scope, "name": name, "value": content})
    words.show(answer, f"{name} of {scope} is set; gateways get it with their next document")
    return ExitCode.OK


# Work orders.


async def orders(words: Words) -> int:
    async with words.central() as central:
        answer = await central.get("/orders")
    lines = [_order(each) for each in _objects(answer["orders"])]
    words.show(answer, "\n".join(lines) or "there is no work order yet; edge-central order set makes one")
    return ExitCode.OK


def _order(each: JsonObject) -> str:
    closed = f"  closed: {each['closed']}" if each["closed"] else ""
    counts = ", ".join(f"{each[name]} {name}" for name in ("granted", "used", "issued", "confirmed", "scrapped", "open"))
    return f"{each['id']}  {each['scope']}  {each['quantity']} units: {counts}{closed}"


async def order_set(words: Words) -> int:
    group = words.text("group")
    scope = f"group:{group}" if group else f"gateway:{words.text('gateway')}"
    source = words.text("order")
    try:
        order: JsonValue = json.loads(read_input(source))
    except ValueError as error:
        raise ConfigError(f"{source} is not JSON") from error
    async with words.central() as central:
        made = await central.post("/orders", {"scope": scope, "order": order})
    words.show(made, f"{_order(made)}\n{scope} gets it with the next document, or by hand: edge-central order export")
    return ExitCode.OK


async def order_show(words: Words) -> int:
    async with words.central() as central:
        made = await central.post("/orders/read", {"id": words.text("id")})
    lines = [_order(made)]
    for each in _objects(made["gateways"]):
        over = ", over" if each["over"] else ""
        counts = ", ".join(f"{each[name]} {name}" for name in ("credit", "used", "issued", "confirmed", "scrapped", "open"))
        lines.append(f"  {each['origin']}: version {each['accepted']} of {each['version']}{over}, {counts}")
    words.show(made, "\n".join(lines))
    return ExitCode.OK


async def order_close(words: Words) -> int:
    async with words.central() as central:
        made = await central.post("/orders/close", {"id": words.text("id"), "reason": words.text("reason")})
    words.show(made, _order(made))
    return ExitCode.OK


async def order_export(words: Words) -> int:
    async with words.central() as central:
        made = await central.post("/orders/export", {"id": words.text("id"), "origin": words.text("origin")})
    write_output(words.text("output"), str(made["statement"]).encode())
    if words.text("output") != "-":
        words.show({"output": words.text("output")}, f"carry {words.text('output')} to {words.text('origin')}")
    return ExitCode.OK


async def device(words: Words) -> int:
    async with words.central() as central:
        made = await central.post("/devices/read", {"device": words.text("device")})
    lines = []
    for each in _objects(made["units"]):
        serial = f", certificate {each['serial']}" if each["serial"] else ""
        lines.append(
            f"{each['state']}  {date(each['changed'])}  unit {each['unit']} of {each['order']} at {each['origin']}{serial}"
        )
    lines += [_certificate(each) for each in _objects(made["certificates"])]
    words.show(made, "\n".join(lines) or "no gateway knows this device")
    return ExitCode.OK


async def verify(words: Words) -> int:
    async with words.central() as central:
        answer = await central.post("/verifications")
    words.show(answer, f"{answer['records']} records of {answer['journals']} gateways are what was confirmed")
    return ExitCode.OK


async def backup(words: Words) -> int:
    async with words.central() as central:
        answer = await central.post("/backups", {"target": words.path("target")})
    words.show(answer, f"{answer['target']} is complete; keep it with a copy of {_state(words)}/keys, apart from each other")
    return ExitCode.OK


def _state(words: Words) -> str:
    return str(words.config.central.state)


def _objects(value: JsonValue) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


async def operator(words: Words) -> int:
    path, name = app.operators_file(words.config), words.text("name")
    if words.arguments.remove:
        remove_operator(path, name)
        words.show({"name": name, "removed": True}, f"{name} is no operator any more")
        return ExitCode.OK
    certificate = None
    if source := words.text("certificate"):
        try:
            certificate = x509.load_pem_x509_certificate(read_input(source)).public_bytes(Encoding.DER)
        except ValueError as error:
            raise ConfigError(f"{source} is no certificate in PEM") from error
    role = VIEWER if words.arguments.viewer else OPERATOR
    secret = add_operator(path, name, role, certificate=certificate)
    answer: JsonObject = {"name": name, "role": role, "secret": secret}
    words.show(answer, f"{secret}\n\nis the secret of {name}; it is shown once" if secret else f"{name} is an operator now")
    return ExitCode.OK


HANDLERS: dict[str, Handler] = {
    "init": init, "ca csr": ca_csr, "ca import": ca_import, "run": run, "status": status, "unlock": unlock, "code": code,
    "join": join, "import": take, "gateways": gateways, "gateways group": group, "gateways approve": approve,
    "gateways retire": retire, "gateways fence": fence, "search": search, "revoke": revoke, "settings": settings,
    "verify": verify, "backup": backup, "operator": operator, "order": orders, "order set": order_set,
    "order show": order_show, "order close": order_close, "order export": order_export, "device": device,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
