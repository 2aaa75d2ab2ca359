"""``scripts/fleet``: a central and two gateways to play with. Everything is NOT FOR PRODUCTION: all keys lie in files.

scripts/fleet                start them, print what to paste, run until Ctrl-C
scripts/fleet --check        let a fleet of its own live through the whole story, and say what was seen
scripts/fleet unplug         pull the cable between central and the gateways of the fleet that runs
scripts/fleet plug           plug it in again
scripts/fleet issue 1000     enrol so many devices over EST, spread over the gateways
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path

from gateway.errors import GatewayError
from tests.support.fleet import Fleet, FleetError
from tests.support.fleet_story import by_bundle, by_cable

_STATE = Path(".fleet")
_SOCKET = "cable.sock"
_POLICY = '{"profiles": {"ldevid": {"base": "ldevid", "validity": "30d"}}}'


async def run(directory: Path) -> None:
    """Until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(f"starting a central and two gateways in {directory} ...", flush=True)
    async with Fleet.running(directory) as fleet:
        path = directory / _SOCKET
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(lambda reader, writer: _obey(fleet, reader, writer), path)
        path.chmod(0o600)
        print(_welcome(fleet), flush=True)
        await stop.wait()
        print("stopping ...", flush=True)
        server.close()
        path.unlink(missing_ok=True)


async def _obey(fleet: Fleet, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One line from ``scripts/fleet plug`` and its like."""
    match (await reader.readline()).decode(errors="replace").split():
        case ["plug"]:
            await fleet.plug()
            answer = "the cable is in, and the gateways were told to try now"
        case ["unplug"]:
            fleet.cable.unplug()
            answer = "the cable is out: central and its gateways hear nothing of each other"
        case ["issue", count] if count.isdecimal() and 0 < int(count) <= 1_000_000:
            try:
                seconds = await fleet.issue(int(count), f"device-{time.time_ns() // 1_000_000:x}")
                answer = f"{count} certificates in {seconds:.1f} s"
            except (FleetError, OSError) as error:
                answer = f"failed: {error}"
        case _:
            answer = "failed: this is not understood"
    writer.write(f"{answer}\n".encode())
    await writer.drain()
    writer.close()


async def tell(directory: Path, words: str) -> int:
    """Hand ``words`` to the fleet that runs; the exit code."""
    try:
        reader, writer = await asyncio.open_unix_connection(directory / _SOCKET)
    except OSError:
        print(f"no fleet runs in {directory}; scripts/fleet starts one", file=sys.stderr)
        return 3
    writer.write(f"{words}\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    print(answer, end="")
    return 1 if answer.startswith("failed") else 0


def _welcome(fleet: Fleet) -> str:
    directory, (one, two) = fleet.directory, fleet.gateways
    central = f".venv/bin/edge-central --state {shlex.quote(str(fleet.central.state))}"
    first, second = (f".venv/bin/edge-gateway --state {shlex.quote(str(each.state))}" for each in (one, two))
    state = "" if directory == _STATE.absolute() else f" --state {shlex.quote(str(directory))}"
    fleet_command = f"scripts/fleet{state}"
    newest = f'"$({central} search device --origin {{}} | head -n 1 | cut -d " " -f 1)"'
    lines = [
        "",
        "NOT FOR PRODUCTION. Everything runs on this machine; Ctrl-C ends all of it, the next start goes on where it was.",
        "",
        f"central      {fleet.central.endpoints['https']}   OCSP and lists {fleet.central.endpoints['http']}",
    ]
    for gateway in fleet.gateways:
        lines.append(f"{gateway.name}    {gateway.endpoints['est']}")
        lines.append(f"             login and password for devices: {gateway.state / 'netrc'}")
    lines += [
        "",
        "In another terminal, in the same directory:",
        "",
        f"  {fleet_command} issue 20",
        f"  {fleet_command} unplug",
        f"  {fleet_command} issue 1000",
        f"  {first} central",
        f"  {first} revoke --reason keyCompromise {newest.format(one.origin)}",
        f"  {central} revoke --reason superseded {newest.format(two.origin)}",
        f"  echo {shlex.quote(_POLICY)} | {central} settings central policy -",
        f"  {fleet_command} plug",
        f"  {central} gateways",
        f"  {central} search device | head -n 5",
        "",
        "Central's page, with the secret that the first line prints:",
        "",
        f"  {central} operator anna",
        f"  {fleet.central.endpoints['https']}/   (certificate below {fleet.central.endpoints['trust_anchors']})",
        "",
        "The same without a cable, with files on a stick:",
        "",
        f"  {fleet_command} unplug",
        f"  {fleet_command} issue 100",
        f"  {second} export /tmp/gateway-2.bundle",
        f"  {central} import /tmp/gateway-2.bundle /tmp/gateway-2.answer",
        f"  {second} import /tmp/gateway-2.answer",
        "",
    ]
    return "\n".join(lines)


async def check(directory: Path, count: int, revocations: int) -> None:
    """The whole story in ``directory``. Raises FleetError for the first thing that is not as it should be."""
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {text}", flush=True)

    async with Fleet.running(directory) as fleet:
        await by_cable(fleet, count, revocations, say)
        await by_bundle(fleet, count, revocations, say)
    say("all is as it should be")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/fleet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["run", "unplug", "plug", "issue"], default="run")
    parser.add_argument("count", nargs="?", type=int, default=1000, help="how many certificates issue issues (default: 1000)")
    parser.add_argument("--state", type=Path, metavar="DIR", help=f"where everything lies (default: {_STATE})")
    parser.add_argument("--check", action="store_true", help="the whole story in a new directory, removed at the end")
    parser.add_argument("--certificates", type=int, default=1000, metavar="N", help="how many the story issues (default: 1000)")
    arguments = parser.parse_args(argv)
    directory = (arguments.state or _STATE).absolute()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        if arguments.check:
            with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
                asyncio.run(check(Path(folder), arguments.certificates, 10))
        elif arguments.what == "run":
            os.umask(0o077)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            asyncio.run(run(directory))
        else:
            words = f"issue {arguments.count}" if arguments.what == "issue" else arguments.what
            return asyncio.run(tell(directory, words))
    except (FleetError, GatewayError, OSError) as error:
        print(f"scripts/fleet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
