"""The command line's words: every command, its options, its help. What a command does stands in the module beside it."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from gateway import __version__
from gateway.cli import care, central, ceremony, certificates, line, line_tools, serve, tokens, waiting
from gateway.cli.context import Context

Handler: TypeAlias = Callable[[Context], Awaitable[int]]

DESCRIPTION = "An offline-capable PKI gateway: gives devices their certificates and proves what it issued."
EPILOG = """exit codes:
  0  done
  1  refused, or it could not be carried out
  2  the command line or the configuration is wrong
  3  not available now: not running, locked, HSM away; later may work
  4  verify or doctor found something wrong with the records
  5  the request waits for a person's approval

examples:
  edge-gateway demo                                   try it out with throw-away keys
  edge-gateway --config config.toml init              prepare a new gateway
  edge-gateway --config config.toml run               start it
  edge-gateway --state .state doctor                  what is wrong, and what to do
"""

REASONS = (
    "unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation",
    "certificateHold", "privilegeWithdrawn", "aACompromise",
)  # fmt: skip
KEY_SPECS = ("p-256", "p-384", "p-521", "rsa-3072", "rsa-4096", "ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87")


class Commands:
    """Adds commands in one form: name, one line for the list, a description, an example."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self._commands = parser.add_subparsers(title=title, metavar="COMMAND", required=True)

    def add(self, name: str, handler: Handler | None, line: str, example: str = "", more: str = "") -> argparse.ArgumentParser:
        parser = self._commands.add_parser(
            name,
            help=line,
            description=f"{line[0].upper()}{line[1:]}. {more}".strip(),
            epilog=f"example:\n  edge-gateway {example}" if example else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if handler is not None:
            parser.set_defaults(handler=handler, serves=handler in (serve.run, serve.demo))
        return parser


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-gateway", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="where the gateway keeps everything; overrides the configuration"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration (TOML); config.example.toml explains every key"
    )
    parser.add_argument("--json", action="store_true", help="answer with one JSON object, for programs")
    parser.add_argument("--version", action="version", version=f"edge-gateway {__version__}")
    commands = Commands(parser, "commands")
    _add_serving(commands)
    _add_ceremony(commands)
    _add_certificates(commands)
    _add_tokens(commands)
    _add_waiting(commands)
    _add_central(commands)
    _add_line(commands)
    _add_care(commands)
    _add_line_tools(commands)
    return parser


def _add_serving(commands: Commands) -> None:
    commands.add("run", serve.run, "serve devices until stopped", "--config config.toml run")
    commands.add(
        "demo",
        serve.demo,
        "try the gateway with a throw-away CA (NOT FOR PRODUCTION)",
        "--state trial demo",
        "Makes a root, a sub-CA with a software key, a token and a maker's IDevID at the first start, then serves.",
    )
    init = commands.add("init", serve.init, "prepare a new gateway: its keys and its journal", "--config config.toml init")
    init.add_argument(
        "--pin", default=None, metavar="SOURCE",
        help="PIN of the token in journal.anchor when its URI has no pin-source: prompt, fd:NUMBER or credential:NAME",
    )  # fmt: skip
    init.add_argument(
        "--predecessor", default="", metavar="ORIGIN",
        help="the journal that this one replaces at central: one that was fenced or closed; its name is needed to join again",
    )  # fmt: skip


def _add_ceremony(commands: Commands) -> None:
    ca = commands.add("ca", None, "the CA key and its certificate: keygen, csr, import, status, renew, unlock")
    steps = Commands(ca, "steps, in the order of a ceremony")
    keygen = steps.add(
        "keygen", ceremony.keygen, "generate the CA key in the HSM (never overwrites)", "ca keygen --key-type p-384"
    )
    keygen.add_argument("--key-type", choices=KEY_SPECS, default="p-256", help="default: p-256")
    keygen.add_argument(
        "--adopt", action="store_true", help="take the key that is there already: the one an interrupted keygen left behind"
    )
    csr = steps.add(
        "csr", ceremony.csr, "write the CA's certificate request for headquarters", 'ca csr --subject "CN=Plant 7,O=X" ca.csr'
    )
    csr.add_argument("--subject", required=True, metavar="NAME", help='RFC 4514 name, e.g. "CN=Plant 7 Issuing CA,O=Example"')
    csr.add_argument("output", nargs="?", default="-", help="new PEM file (default: standard output)")
    activate = steps.add(
        "import", ceremony.activate, "activate the CA with the certificate from headquarters", "ca import ca-chain.pem"
    )
    activate.add_argument(
        "certificates", metavar="PEM", help="the CA certificate, then its issuers up to the root; - for standard input"
    )
    steps.add("status", ceremony.status, "show the CA's generations, their keys and how long they last", "ca status")
    renew = steps.add(
        "renew",
        ceremony.renew,
        "begin the next generation with a new key beside the current one",
        "ca renew --key software:ca-2",
    )
    renew.add_argument("--key", default=None, metavar="URI", help="where the new key goes; default: the configured ca.key")
    renew.add_argument("--key-type", choices=KEY_SPECS, default="p-256", help="default: p-256")
    unlock = steps.add(
        "unlock",
        ceremony.unlock,
        "enter the HSM's PIN (exactly one attempt)",
        "ca unlock",
        "The PIN is never an argument of a command.",
    )
    unlock.add_argument("--key", default=None, metavar="URI", help="a key on the token; default: the configured ca.key")
    unlock.add_argument("--pin", default="prompt", metavar="SOURCE", help="prompt (default), fd:NUMBER or credential:NAME")


def _add_certificates(commands: Commands) -> None:
    issue = commands.add(
        "issue", certificates.issue, "issue a certificate for a CSR file", "issue --profile tls-server web.csr web.pem"
    )
    issue.add_argument("--profile", required=True, help="which profile's rules apply, e.g. tls-server")
    issue.add_argument("csr", help="certificate request, PEM or DER; - for standard input")
    issue.add_argument(
        "output", nargs="?", default="-", help="new PEM file with the certificate and its chain (default: standard output)"
    )
    revoke = commands.add(
        "revoke", certificates.revoke, "revoke a certificate, hold it, or lift a hold", "revoke --reason keyCompromise web.pem"
    )
    revoke.add_argument("certificate", help="serial number in hex, or a certificate file")
    revoke.add_argument(
        "--reason",
        choices=REASONS,
        default="unspecified",
        help="RFC 5280 reason; certificateHold can be lifted again (default: unspecified)",
    )
    revoke.add_argument("--release", action="store_true", help="lift a certificateHold")
    prove = commands.add(
        "prove", certificates.prove, "write the proof that a certificate is in the journal", "prove 4f2a91 proof.json"
    )
    prove.add_argument("serial", help="serial number in hex")
    prove.add_argument("output", nargs="?", default="-", help="new file (default: standard output)")


def _add_tokens(commands: Commands) -> None:
    token = commands.add("token", None, "one-time secrets that let a new device enrol: create, list, revoke")
    actions = Commands(token, "actions")
    create = actions.add(
        "create", tokens.create, "make a token and show its secret once", "token create --profile ldevid --uses 10 --hours 48"
    )
    create.add_argument("--profile", required=True, help="the only profile the token is good for")
    create.add_argument("--uses", type=int, default=None, metavar="N", help="how many certificates (default: tokens.uses)")
    create.add_argument(
        "--hours", type=int, default=None, metavar="H", help="how long it is good (default: tokens.validity_hours)"
    )
    create.add_argument(
        "--subject", default="", metavar="NAME", help="only for this subject (RFC 4514) or serialNumber pattern"
    )
    create.add_argument("--station", action="store_true", help="for a station certificate, which may ask on behalf of devices")
    actions.add("list", tokens.show, "list tokens; secrets are not kept", "token list")
    revoke = actions.add("revoke", tokens.revoke, "make a token useless", "token revoke t-7Q2")
    revoke.add_argument("token", help="the token's id")


def _add_waiting(commands: Commands) -> None:
    commands.add("waiting", waiting.show, "list requests that wait for a person", "waiting")
    approve = commands.add("approve", waiting.approve, "approve a waiting request", "approve r-19")
    approve.add_argument("request", help="the request's id")
    deny = commands.add("deny", waiting.deny, "deny a waiting request", 'deny r-19 --reason "unknown device"')
    deny.add_argument("request", help="the request's id")
    deny.add_argument("--reason", default="", help="goes into the journal")


def _add_central(commands: Commands) -> None:
    join = commands.add(
        "join",
        central.join,
        "let central certify this gateway's CA and send it its policy",
        "join https://central.example:9443",
    )
    join.add_argument("url", nargs="?", default="", help="central's address; leave it out to join by files")
    join.add_argument("--code", default="prompt", metavar="SOURCE", help="prompt (default), fd:NUMBER or credential:NAME")
    join.add_argument("--subject", default="", metavar="NAME", help='the CA\'s name; default: "CN=NAME Issuing CA"')
    join.add_argument("--request", default="", metavar="FILE", help="without a network: write what is to be carried to central")
    join.add_argument("--answer", default="", metavar="FILE", help="... and read what central answered; - for standard input")
    state = commands.add(
        "central", central.status, "what central has confirmed, and which document of it is in force", "central --now"
    )
    state.add_argument("--now", action="store_true", help="try to reach central now: the cable has been plugged in again")
    export = commands.add(
        "export",
        central.export_bundle,
        "write what central has not confirmed yet into a file",
        "export /media/usb/plant7.bundle",
    )
    export.add_argument("target", metavar="FILE", help="new file")
    export.add_argument("--since", type=int, default=None, metavar="N", help="from record N on instead")
    export.add_argument("--plain", action="store_true", help="do not encrypt it; by default only central can read it")
    take = commands.add("import", central.import_bundle, "read central's answer from a file", "import /media/usb/answer.bundle")
    take.add_argument("source", metavar="FILE", help="what central wrote for this gateway")
    close = commands.add("close", central.close, "end this journal for good: the hardware is replaced", "close --yes")
    close.add_argument("--reason", default="hardware replaced", help="default: hardware replaced")
    close.add_argument("--yes", action="store_true", help="really")


def _add_line(commands: Commands) -> None:
    order = Commands(
        commands.add("order", None, "work orders of the production line: sign, import, list, close"), "what to do with orders"
    )
    sign = order.add(
        "sign", line.sign_order, "sign a work order written as TOML", "order sign --key k.pem --origin NAME o.toml o.order",
        "For sites without central, which signs its orders itself. Needs no gateway; docs/LINE.md lists the keys of an order.",
    )  # fmt: skip
    sign.add_argument("--key", required=True, metavar="PEM", help="Ed25519 key: openssl genpkey -algorithm ed25519")
    sign.add_argument("--name", default="orders", help="name of the key, as in line.order_keys (default: orders)")
    sign.add_argument("--origin", required=True, help="the gateway that it is for; edge-gateway status shows it")
    sign.add_argument("order", metavar="TOML", help="the order")
    sign.add_argument("output", metavar="FILE", help="the signed order")
    take = order.add("import", line.import_order, "take up a signed work order", "order import o.order")
    take.add_argument("file", help="the signed order")
    order.add("list", line.list_orders, "list the orders, with their credit and what became of it", "order list")
    close = order.add("close", line.close_order, "begin no unit under an order any more", "order close O-17 --reason finished")
    close.add_argument("order", metavar="ORDER", help="its id")
    close.add_argument("--reason", required=True, help="goes into the records")
    ports = Commands(commands.add("line", None, "the ports of the production line: ports, assign, scan"), "what to do")
    ports.add("ports", line.ports, "show every port: what is there, what to do", "line ports")
    assign = ports.add("assign", line.assign, "let a port work under an order", "line assign p1 O-17")
    assign.add_argument("port", metavar="PORT", help="its name in the configuration")
    assign.add_argument("order", metavar="ORDER", nargs="?", default="", help="without one the port takes the order that fits")
    scan = ports.add("scan", line.scan, "say that a label was scanned at its device", "line scan https://example.com/SN-1")
    scan.add_argument("code", help="what the scanner read")
    units = Commands(
        commands.add("unit", None, "devices on the line: list, show, papers, scrap, rework, release"), "what to do"
    )
    units.add("list", line.list_units, "list the units that are open", "unit list")
    for name, handler, words in (
        ("show", line.show_unit, "show a unit with every state it was in"),
        ("papers", line.papers, "print a finished unit's signed production record, ticket and manifest entry"),
        ("scrap", line.scrap, "give a unit up for good; its certificate is revoked"),
        ("rework", line.rework, "give a unit up and let its device begin anew; its certificate is revoked"),
        ("release", line.release, "give up a unit that has no certificate; its credit comes back"),
    ):
        unit = units.add(name, handler, words, f"unit {name} SN-000017")
        unit.add_argument("unit", metavar="UNIT", help="its name, or the product's serial number")
        if name not in ("show", "papers"):
            unit.add_argument("--reason", required=True, help="goes into the records")


def _add_care(commands: Commands) -> None:
    commands.add("status", care.status, "show the state of the gateway in a few lines", "status")
    commands.add("doctor", care.doctor, "say in words what is wrong and what to do", "doctor")
    verify = commands.add(
        "verify",
        care.verify,
        "prove the whole journal: every record, every signature, no gap",
        "verify",
        "Beside a running gateway it proves a copy that the gateway makes.",
    )
    verify.add_argument(
        "--key", default=None, metavar="VKEY", help="the journal's public key as noted at init; default: this gateway's own"
    )
    backup = commands.add("backup", care.backup, "copy the journal while the gateway works", "backup /mnt/usb/gateway.backup")
    backup.add_argument("target", help="new file, or directory for it")
    restore = commands.add(
        "restore",
        care.restore,
        "put a backup back into an empty state directory",
        "--state /var/lib/edge-gateway restore /mnt/usb/gateway.backup",
        "If the backup is older than what the anchor has seen, the gateway stays fenced until the PKI team lets it join again.",
    )
    restore.add_argument(
        "--key", default=None, metavar="VKEY", help="the journal's public key as noted at init; default: its own statement"
    )
    restore.add_argument("source", help="the backup")


def _add_line_tools(commands: Commands) -> None:
    simulate = commands.add(
        "simulate",
        line_tools.simulate,
        "run simulated devices for a production line",
        "simulate --count 8 --directory /tmp/devices --fault silent",
        "Each has a Unix socket as its port and keeps its storage; the lines that it prints are for the line's configuration.",
    )
    simulate.add_argument("--count", type=int, default=8, metavar="N", help="how many devices, 1 to 256 (default 8)")
    simulate.add_argument("--kind", choices=("modem", "shell"), default="modem", help="a made-up modem, or busybox and openssl")
    simulate.add_argument("--directory", type=Path, required=True, metavar="DIR", help="where the devices keep what they keep")
    simulate.add_argument("--seed", type=int, default=0, metavar="N", help="another number gives other chips")
    simulate.add_argument("--slow-key", type=float, default=0.0, metavar="SECONDS", help="how long making a key takes")
    simulate.add_argument(
        "--fault", action="append", default=[], metavar="FAULT",
        help="garbage, endless, silent, cut, cloned-key, repeated-serial or wrong-chip: one device has it; may be repeated",
    )  # fmt: skip
    recipe = commands.add(
        "recipe",
        line_tools.recipe,
        "check a recipe for a kind of device, without the device",
        "recipe /etc/edge-gateway/recipes/plc-7.toml",
    )
    recipe.add_argument("file", help="the recipe (TOML)")
