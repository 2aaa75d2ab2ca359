"""``scripts/bench``: what the gateway costs, as ratios to a floor measured in the same run.

The gateway is pinned to one core and the load generator to another; costs are the kernel's CPU clock of the gateway's process.
Nothing here asserts a time: the figures go to a JSON file and to docs/PERFORMANCE.md, and a person judges them.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp

from tests.load import crl_cost, drain_bench, fill, floor, line_bench, process, sync_bench
from tests.load.client import Figures, Plan
from tests.support.tokens import FaultyToken, Token, build_fault_module, softhsm_store, softhsm_token

Row = dict[str, object]
_HSM_MS = 73


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Daemon:
    """A running gateway process and what the kernel knows of it."""

    def __init__(self, process: subprocess.Popen[bytes], state: Path) -> None:
        self._process = process
        self.endpoints = json.loads((state / "endpoints.json").read_text())

    def cpu_us(self) -> float:
        """CPU of the daemon and its reaped children, microseconds."""
        return process.cpu_us(self._process.pid)

    def rss_kib(self) -> int:
        return process.rss_kib(self._process.pid)


@contextmanager
def daemon(state: Path, *command: str, environment: Mapping[str, str] | None = None) -> Iterator[Daemon]:
    """A gateway on the first core, stopped in order afterwards."""
    (state / "endpoints.json").unlink(missing_ok=True)
    arguments = [sys.executable, "-m", "gateway", "--state", str(state), *command]
    if os.cpu_count() != 1:
        arguments = ["taskset", "-c", "0", *arguments]
    with (state.parent / f"{state.name}.log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log, env={**os.environ, **(environment or {})})
        try:
            while not (state / "endpoints.json").exists():
                if process.poll() is not None:
                    raise RuntimeError(Path(log.name).read_text())
                time.sleep(0.05)
            yield Daemon(process, state)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def load(plan: Plan) -> Figures:
    """Run a plan in a process on the last core."""
    arguments = [sys.executable, "-m", "tests.load.client"]
    if os.cpu_count() != 1:
        arguments = ["taskset", "-c", str((os.cpu_count() or 2) - 1), *arguments]
    done = subprocess.run(arguments, input=json.dumps(asdict(plan)).encode(), stdout=subprocess.PIPE, check=True)
    figures = Figures(**json.loads(done.stdout))
    if figures.ok != plan.count:
        raise RuntimeError(f"not every request was answered with 200: {figures.statuses}")
    return figures


def enrolment(gateway: Daemon, count: int, connections: int, token: tuple[str, str], *, fresh: bool = False) -> Plan:
    target = urlsplit(gateway.endpoints["est"])
    credentials = base64.b64encode(":".join(token).encode()).decode()
    return Plan(
        host="localhost",
        port=target.port or 443,
        anchors=gateway.endpoints["trust_anchors"],
        authorization=f"Basic {credentials}",
        count=count,
        connections=connections,
        fresh=fresh,
        prefix=f"bench-{time.time_ns():x}",
    )


def demo_token(gateway: Daemon) -> tuple[str, str]:
    token = gateway.endpoints["demo"]["token"]
    return token["user"], token["secret"]


def measured(gateway: Daemon, plan: Plan) -> Row:
    """One run of a plan: CPU of the gateway per request, rate, latency."""
    before = gateway.cpu_us()
    figures = load(plan)
    return {
        "cpu_us": (gateway.cpu_us() - before) / plan.count,
        "per_s": plan.count / figures.seconds,
        "p50_ms": figures.p50_ms,
        "p95_ms": figures.p95_ms,
        "p99_ms": figures.p99_ms,
    }


def best(rows: list[Row], name: str = "cpu_us") -> Row:
    return min(rows, key=lambda row: float(str(row[name])))


def bench_enrolment(work: Path, scale: float) -> Row:
    """Enrolments with keep-alive and with a fresh TLS connection each, turn by turn, beside the floor."""
    state = work / "enrolment"
    with daemon(state, "demo") as gateway:
        token = demo_token(gateway)
        load(enrolment(gateway, 200, 16, token))  # warm
        keep, fresh, floors = [], [], []
        certificate, key = work / "floor.pem", work / "floor.key"
        _self_signed(certificate, key)
        for _ in range(3):
            floors.append(floor.measure(str(certificate), str(key)))
            keep.append(measured(gateway, enrolment(gateway, int(2000 * scale), 16, token)))
            fresh.append(measured(gateway, enrolment(gateway, int(800 * scale), 16, token, fresh=True)))
    keep_floor = min(each.keep_us for each in floors)
    fresh_floor = min(each.fresh_us for each in floors)
    keep_best, fresh_best = best(keep), best(fresh)
    return {
        "floor_verify_us": min(each.verify_us for each in floors),
        "floor_sign_us": min(each.sign_us for each in floors),
        "floor_handshake_us": min(each.handshake_us for each in floors),
        "keep_alive": keep_best,
        "fresh_tls": fresh_best,
        "ratio_keep_alive": float(str(keep_best["cpu_us"])) / keep_floor,
        "ratio_fresh_tls": float(str(fresh_best["cpu_us"])) / fresh_floor,
    }


def bench_slow_sync(work: Path, scale: float) -> Row:
    """128 waiting clients, first on this disk, then with 10 ms added to every fsync."""
    library = work / "slowsync.so"
    source = Path(__file__).with_name("slowsync.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    row: Row = {}
    rates: dict[int, list[float]] = {0: [], 10: []}
    for turn in range(2):
        for delay, taken in rates.items():
            environment = {"LD_PRELOAD": str(library), "SLOWSYNC_MS": str(delay)}
            with daemon(work / f"sync-{delay}-{turn}", "demo", environment=environment) as gateway:
                plan = enrolment(gateway, int(4000 * scale), 128, demo_token(gateway))
                taken.append(float(str(measured(gateway, plan)["per_s"])))
    row["per_s_as_is"], row["per_s_slow"] = max(rates[0]), max(rates[10])
    row["ratio"] = max(rates[10]) / max(rates[0])
    return row


def bench_hsm(work: Path, scale: float) -> Row:
    """A token that takes 73 ms for each signature: how much of its limit is reached, and what is added to its time."""
    tokens = work / "hsm-token"
    tokens.mkdir()
    faulty = FaultyToken(
        build_fault_module(tokens), tokens / "wrapped", softhsm_token(softhsm_store(tokens / "store"), "bench")
    )
    state = work / "hsm"
    command, run = _hsm_gateway(work, state, faulty.token)
    created = json.loads(run("--json", "token", "create", "--profile", "ldevid", "--uses", "100000"))
    token = (str(created["token_id"]), str(created["secret"]))
    with daemon(state, *command, "run") as gateway:
        faulty.order(f"latency={_HSM_MS}")
        single = measured(gateway, enrolment(gateway, int(40 * scale) + 10, 1, token))
        many = measured(gateway, enrolment(gateway, int(150 * scale) + 30, 16, token))
    return {
        "hsm_ms": _HSM_MS,
        "limit_per_s": 1000 / _HSM_MS,
        "per_s": many["per_s"],
        "ratio_of_limit": float(str(many["per_s"])) * _HSM_MS / 1000,
        "p50_over_hsm_ms": float(str(single["p50_ms"])) - _HSM_MS,
    }


def _hsm_gateway(work: Path, state: Path, token: Token, more: str = "") -> tuple[list[str], Callable[..., str]]:
    """A gateway whose CA key lies on ``token``, certified: its options, and what runs a command of it."""
    state.mkdir()
    pin, config = state / "pin", state / "config.toml"
    pin.write_text(token.pin)
    pin.chmod(0o600)
    config.write_text(
        '[gateway]\nname = "bench"\nbase_url = "http://localhost"\n'
        f'[ca]\nkey = "{token.uri(pin_source=f"file:{pin}")}"\n'
        '[listen.https]\nhost = "127.0.0.1"\nport = 0\n[listen.http]\nhost = "127.0.0.1"\nport = 0\n'
        f'[tls]\nnames = ["localhost", "127.0.0.1"]\n{more}'
    )
    command = ["--config", str(config)]

    def run(*arguments: str) -> str:
        arguments = (sys.executable, "-m", "gateway", "--state", str(state), *command, *arguments)
        environment = {**os.environ, **token.environment}
        return subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout

    run("init")
    run("ca", "keygen")
    run("ca", "csr", "--subject", "CN=Bench issuing CA,O=Bench", str(work / "ca.csr"))
    _sign_ca(work)
    run("ca", "import", str(work / "ca-chain.pem"))
    return command, run


def bench_line(work: Path, scale: float) -> Row:
    """64 ports with real shells and openssl behind them, the CA's key on SoftHSM2; see :mod:`tests.load.line_bench`."""
    tokens = work / "line-token"
    tokens.mkdir()
    token = softhsm_token(softhsm_store(tokens / "store"), "line")
    hall = line_bench.Hall(work / "line-hall", ports=max(4, int(64 * scale)))
    state = work / "line"
    command, run = _hsm_gateway(work, state, token, hall.configuration())
    hall.sign_order(run, state)
    rows: Row = {}
    with daemon(state, *command, "run", environment=token.environment) as gateway:
        run("order", "import", str(hall.order))
        rows |= hall.rounds(run, gateway.cpu_us, rounds=max(1, int(5 * scale)))
        hall.begin(seed=99)
        hall.until_begun(run)
    with daemon(state, *command, "run", environment=token.environment):
        hall.until_done(run)
        hall.end()
    return rows | hall.from_journal(state)


def bench_ocsp(work: Path, scale: float) -> Row:
    state = work / "ocsp"
    with daemon(state, "demo") as gateway:
        load(enrolment(gateway, 10, 2, demo_token(gateway)))
        target = urlsplit(gateway.endpoints["ocsp"])
        issuer = x509.load_der_x509_certificate(_fetch(gateway.endpoints["http"] + "/ca/issuing.cer"))
        presented = ssl.PEM_cert_to_DER_cert(
            ssl.get_server_certificate(("localhost", urlsplit(gateway.endpoints["est"]).port or 443))
        )
        builder = ocsp.OCSPRequestBuilder().add_certificate(x509.load_der_x509_certificate(presented), issuer, hashes.SHA1())
        body = base64.b64encode(builder.build().public_bytes(_DER)).decode()
        plan = Plan(
            host="localhost", port=target.port or 80, path="/ocsp", body=body, content_type="application/ocsp-request",
            count=int(10_000 * scale), connections=16,
        )  # fmt: skip
        load(plan)
        many = best([measured(gateway, plan) for _ in range(3)])
        plan.connections = 1  # nothing shares a turn of the loop then: the dear case
        return {"connections_16": many, "connections_1": best([measured(gateway, plan) for _ in range(3)])}


def bench_memory(work: Path, scale: float) -> Row:
    """Resident memory when idle, and what each idle TLS connection adds."""
    idle = int(1000 * scale)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    state = work / "memory"
    with daemon(state, "demo") as gateway:
        load(enrolment(gateway, 200, 4, demo_token(gateway)))
        base = gateway.rss_kib()
        port = urlsplit(gateway.endpoints["est"]).port or 443
        context = ssl.create_default_context(cafile=gateway.endpoints["trust_anchors"])
        held = []
        for number in range(idle):
            # Several source addresses: the gateway bounds the connections of one.
            plain = socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.0.{2 + number // 250}", 0))
            held.append(context.wrap_socket(plain, server_hostname="localhost"))
        after = gateway.rss_kib()
        for each in held:
            each.close()
    return {"base_mib": base / 1024, "connections": idle, "kib_per_idle_connection": (after - base) / idle}


def bench_growth(work: Path, scale: float) -> Row:
    """Cost of an enrolment on an empty journal and on one that was filled with a million certificates."""
    state, certificates = work / "growth", int(1_000_000 * scale)
    with daemon(state, "demo") as gateway:
        load(enrolment(gateway, 200, 16, demo_token(gateway)))
        empty = best([measured(gateway, enrolment(gateway, 1500, 16, demo_token(gateway))) for _ in range(3)])
    begin = time.perf_counter()
    fill_us = asyncio.run(fill.fill(state, certificates, say))
    say(f"filled in {time.perf_counter() - begin:.0f} s")
    begin = time.perf_counter()
    with daemon(state, "demo") as gateway:
        start_s = time.perf_counter() - begin
        load(enrolment(gateway, 200, 16, demo_token(gateway)))
        full = best([measured(gateway, enrolment(gateway, 1500, 16, demo_token(gateway))) for _ in range(3)])
        rss = gateway.rss_kib()
    return {
        "certificates": certificates,
        "empty_cpu_us": empty["cpu_us"],
        "full_cpu_us": full["cpu_us"],
        "ratio": float(str(full["cpu_us"])) / float(str(empty["cpu_us"])),
        "fill_us_per_certificate_by_fifth": fill_us,
        "start_s": start_s,
        "rss_mib": rss / 1024,
        "journal_mib": (state / "journal.db").stat().st_size / 2**20,
    }


def bench_crl(work: Path, scale: float) -> Row:
    done = subprocess.run(
        [sys.executable, "-m", "tests.load.crl_cost", str(int(1_000_000 * scale))], check=True, stdout=subprocess.PIPE, cwd="."
    )
    return dict(json.loads(done.stdout))


def bench_sync(work: Path, scale: float) -> Row:
    """A million records brought to central and made into tables, with each database."""
    directory = work / "sync"
    directory.mkdir()
    return sync_bench.bench(directory, int(1_000_000 * scale), say)


def bench_drain(work: Path, scale: float) -> Row:
    """A backlog of a million records on its way to central, beside enrolments."""
    return drain_bench.bench(work / "drain", max(300_000, int(1_000_000 * scale)), int(3000 * scale), say)


def machine() -> Row:
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "openssl_of_ssl": ssl.OPENSSL_VERSION,
        "load_before": os.getloadavg()[0],
    }


_DER = crl_cost.DER


def _fetch(url: str) -> bytes:
    return subprocess.run(["curl", "-sSf", url], check=True, stdout=subprocess.PIPE).stdout


def _self_signed(certificate: Path, key: Path) -> None:
    _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost")  # fmt: skip


def _sign_ca(work: Path) -> None:
    _self_signed(work / "root.pem", work / "root.key")
    extensions = work / "ca.ext"
    extensions.write_text(
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    _openssl("x509", "-req", "-in", str(work / "ca.csr"), "-CA", str(work / "root.pem"), "-CAkey", str(work / "root.key"),
             "-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out", str(work / "ca.pem"))  # fmt: skip
    (work / "ca-chain.pem").write_text((work / "ca.pem").read_text() + (work / "root.pem").read_text())


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


BENCHES = {
    "enrolment": bench_enrolment,
    "slow_sync": bench_slow_sync,
    "hsm": bench_hsm,
    "ocsp_cached": bench_ocsp,
    "memory": bench_memory,
    "crl": bench_crl,
    "growth": bench_growth,
    "sync": bench_sync,
    "drain": bench_drain,
    "line": bench_line,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=sorted(BENCHES), default=list(BENCHES), help="only these")
    parser.add_argument("--scale", type=float, default=1.0, help="1.0 for figures to keep; 0.01 to see that it works")
    parser.add_argument("--output", type=Path, default=Path("build/performance.json"), help="where the figures go")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="edge-bench-"))
    figures: dict[str, Row] = {"machine": machine()}
    if options.output.exists():
        figures = {**json.loads(options.output.read_text()), **figures}
    try:
        for name in options.only:
            say(f"{name} ...")
            figures[name] = BENCHES[name](work, options.scale)
            say(json.dumps(figures[name], indent=1))
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(figures, indent=1) + "\n")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
