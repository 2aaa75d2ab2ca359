"""The words of ``edge-central``: commands, options, help. What a command does stands in :mod:`sync.central.cli`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from gateway import __version__
from gateway.keys.signer import KeySpec
from gateway.pki.crl import Reason
from sync.central.desired_state import ALL, SETTINGS

ROOT_KEYS = (KeySpec.P256, KeySpec.P384, KeySpec.P521, KeySpec.RSA_3072, KeySpec.RSA_4096)
REASONS = [each.value for each in Reason if each is not Reason.REMOVE_FROM_CRL]
_EPILOG = """exit codes: 0 done, 1 refused, 2 wrong command line or configuration, 3 not possible now, 4 evidence of a fault

a new central:  edge-central --config central.toml init
                edge-central --config central.toml run
                edge-central --config central.toml code        (then: edge-gateway join URL at the gateway)
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-central",
        description="Central of the edge gateways: certifies their CAs, keeps what they issued, tells them what holds.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edge-central {__version__}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (docs/central.example.toml explains it)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="state directory; goes before the configured one")
    parser.add_argument("--json", action="store_true", help="answer with one JSON object")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    _add_founding(commands)
    _add_gateways(commands)
    _add_certificates(commands)
    _add_orders(commands)
    _add_care(commands)
    return parser


Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(to: Subparsers, name: str, text: str) -> argparse.ArgumentParser:
    """``command`` of the arguments becomes the name, with that of the command it belongs to in front."""
    made = to.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
    made.set_defaults(command=made.prog.partition(" ")[2])
    return made


def _add_founding(commands: Subparsers) -> None:
    made = _command(commands, "init", "make a new central: its keys, its database, its root")
    made.add_argument("--key-type", choices=[each.value for each in ROOT_KEYS], default="p-256", help="default: p-256")
    made.add_argument("--subordinate", action="store_true", help="no root of its own: a company's root certifies it (ca csr)")
    made.add_argument("--adopt", action="store_true", help="take the key that is on the token already")
    _add_pin(made)
    steps = _command(commands, "ca", "a central below a company's root: csr, import")
    below = steps.add_subparsers(required=True, metavar="STEP", title="steps")
    request = _command(below, "csr", "write the certificate request for the company's root")
    request.add_argument("output", nargs="?", default="-", help="new PEM file (default: standard output)")
    _add_pin(request)
    taken = _command(below, "import", "take the certificate that the company's root made")
    taken.add_argument(
        "certificates", metavar="PEM", help="the certificate, then its issuers up to the root; - for standard input"
    )
    _add_pin(taken)
    _command(commands, "run", "serve gateways until it is stopped")
    unlocked = _command(commands, "unlock", "enter the PIN of the root key's token (exactly one attempt)")
    unlocked.add_argument("--pin", default="prompt", metavar="SOURCE", help="prompt (default), fd:NUMBER or credential:NAME")
    _command(commands, "status", "show the state of central and its open alerts")


def _add_pin(command: argparse.ArgumentParser) -> None:
    text = "PIN of the root key's token when its URI has no pin-source: prompt, fd:NUMBER or credential:NAME"
    command.add_argument("--pin", default=None, metavar="SOURCE", help=text)


def _add_gateways(commands: Subparsers) -> None:
    made = _command(commands, "code", "make a one-time code that lets one gateway join")
    made.add_argument("--group", default="", help="the group that the gateway becomes a member of")
    made.add_argument("--hours", type=int, default=0, metavar="H", help="how long it is good (default: gateways.code_hours)")
    made.add_argument("--withdraw", default="", metavar="NAME", help="make the code of that name useless instead")
    carried = _command(commands, "join", "answer a join request that was carried here in a file")
    carried.add_argument("request", help="the file that edge-gateway join --request wrote; - for standard input")
    carried.add_argument("answer", nargs="?", default="-", help="new file to carry back (default: standard output)")
    bundle = _command(commands, "import", "take a bundle of records that was carried here in a file")
    bundle.add_argument("source", metavar="FILE", help="the file that edge-gateway export wrote")
    bundle.add_argument("answer", metavar="ANSWER", help="new file to carry back, for edge-gateway import")
    several = _command(commands, "gateways", "list the gateways; or group, approve, retire, fence one")
    actions = several.add_subparsers(metavar="ACTION", title="actions")
    grouped = _for_one(actions, "group", "put a gateway into a group, whose settings hold for it")
    grouped.add_argument("group", help='name; "" for none')
    _for_one(actions, "approve", "certify the CA key that a gateway waits for")
    retired = _for_one(actions, "retire", "expect nothing more from a gateway")
    retired.add_argument("--reason", default="", help="kept with the gateway")
    retired.add_argument(
        "--revoke-ca", default="", choices=["", *REASONS], metavar="REASON", help="revoke its CAs, and so all they issued"
    )
    fenced = _for_one(actions, "fence", "take nothing more from a gateway and stop it from issuing")
    fenced.add_argument("--reason", default="", help="what the technician at the gateway reads")
    fenced.add_argument("--yes", action="store_true", help="really: the gateway must join again")


def _for_one(actions: Subparsers, name: str, text: str) -> argparse.ArgumentParser:
    made = _command(actions, name, text)
    made.add_argument("origin", help="the gateway's journal, as the list shows it")
    return made


def _add_certificates(commands: Subparsers) -> None:
    found = _command(commands, "search", "find certificates of all gateways")
    found.add_argument("text", nargs="?", default="", help="part of the subject or of an alternative name")
    found.add_argument("--serial", default="", help="serial number in hex")
    found.add_argument("--device", default="", help="serialNumber in the subject")
    found.add_argument("--origin", default="", help="journal of the gateway that issued it")
    found.add_argument("--profile", default="", help="profile it was issued by")
    found.add_argument("--limit", type=int, default=100, metavar="N", help="about how many (default: 100)")
    revoked = _command(commands, "revoke", "revoke a certificate of any gateway, hold it, or lift a hold")
    revoked.add_argument("serial", help="serial number in hex")
    revoked.add_argument("--reason", choices=REASONS, default="unspecified", help="RFC 5280 reason (default: unspecified)")
    revoked.add_argument("--issuer", default="", metavar="KEY", help="key identifier of the CA, where two have that serial")
    revoked.add_argument("--release", action="store_true", help="lift a certificateHold")
    part = _command(commands, "settings", "show or set what gateways are told: policy, quotas, allow-lists, ...")
    part.add_argument("scope", nargs="?", default=ALL, help=f"{ALL} (all gateways, default), group:NAME or gateway:ORIGIN")
    part.add_argument("name", nargs="?", choices=SETTINGS, help="which part to set")
    part.add_argument("value", nargs="?", default="", metavar="FILE", help="its JSON; - for standard input, null takes it away")


def _add_orders(commands: Subparsers) -> None:
    several = _command(commands, "order", "list the work orders of production lines; or set, show, close, export one")
    actions = several.add_subparsers(metavar="ACTION", title="actions")
    made = _command(actions, "set", "make a work order, or change it")
    made.add_argument("order", metavar="FILE", help="its JSON: id, quantity, credit, ...; - for standard input")
    whose = made.add_mutually_exclusive_group(required=True)
    whose.add_argument("--gateway", default="", metavar="ORIGIN", help="for this gateway alone")
    whose.add_argument("--group", default="", help="for the gateways of a group, which share the quantity")
    for name, text in (("show", "show a work order and what became of it"), ("close", "let no gateway begin anything more")):
        one = _command(actions, name, text)
        one.add_argument("id", help="the order's id")
    one.add_argument("--reason", default="", help="kept with the order")
    found = _command(commands, "device", "find a device by its serial number: what lines made of it, and its certificates")
    found.add_argument("device", metavar="SERIAL", help="the device's own serial number")
    carried = _command(actions, "export", "write a gateway's signed work order into a file, to be carried there")
    carried.add_argument("id", help="the order's id")
    carried.add_argument("origin", help="the gateway's journal")
    carried.add_argument("output", nargs="?", default="-", help="new file (default: standard output)")


def _add_care(commands: Subparsers) -> None:
    made = _command(commands, "operator", "let a person or a program use the page and the REST interface, or no longer")
    made.add_argument("name", help="letters and digits; stands in the trail of what was changed")
    made.add_argument("--viewer", action="store_true", help="may read and change nothing")
    made.add_argument("--certificate", default="", metavar="PEM", help="known by the key of this TLS client certificate")
    made.add_argument("--remove", action="store_true", help="no longer an operator, at once")
    _command(commands, "verify", "compute every journal's root again and compare it with what was confirmed")
    copied = _command(commands, "backup", "copy the database while central works")
    copied.add_argument("target", help="new file")
