"""A load generator for EST and OCSP: blocking sockets in threads, so that the client costs little and waits honestly.

Run as ``python -m tests.load.client``; it reads a plan from standard input and writes one JSON object of figures to standard
output. It lives in a process of its own, on another core than the gateway, so that its cost is never counted as the gateway's.
"""

from __future__ import annotations

import base64
import itertools
import json
import socket
import ssl
import sys
import threading
import time
from dataclasses import asdict, dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(slots=True)
class Plan:
    host: str
    port: int
    anchors: str = ""  # PEM file; empty for plain HTTP
    path: str = "/.well-known/est/simpleenroll"
    authorization: str = ""  # complete header value, arrives over standard input and never on the command line
    count: int = 1000
    connections: int = 16
    fresh: bool = False  # a new TLS connection for each request
    prefix: str = "load"
    body: str = ""  # base64 of a fixed body; empty: a new P-256 CSR for each request
    content_type: str = "application/pkcs10"


@dataclass(slots=True)
class Figures:
    seconds: float = 0.0
    ok: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    client_cpu_s: float = 0.0


def certification_request(common_name: str) -> bytes:
    """A DER CSR with a new P-256 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, common_name), x509.NameAttribute(NameOID.SERIAL_NUMBER, common_name)]
    )
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


def request_bytes(plan: Plan, body: bytes) -> bytes:
    lines = [
        f"POST {plan.path} HTTP/1.1",
        f"Host: {plan.host}:{plan.port}",
        f"Content-Type: {plan.content_type}",
        f"Content-Length: {len(body)}",
    ]
    if plan.authorization:
        lines.append(f"Authorization: {plan.authorization}")
    if plan.fresh:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def requests_of(plan: Plan) -> list[bytes]:
    """All requests of a plan, made before the clock starts."""
    if plan.body:
        return [request_bytes(plan, base64.b64decode(plan.body))] * plan.count
    return [
        request_bytes(plan, base64.b64encode(certification_request(f"{plan.prefix}-{number}"))) for number in range(plan.count)
    ]


def exchange(connection: socket.socket, request: bytes) -> int:
    """Send one request, read one whole answer, return its status."""
    connection.sendall(request)
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("closed before an answer")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    received = len(body)
    while received < length:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("closed inside an answer")
        received += len(piece)
    return int(head[9:12])


class Load:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._requests = requests_of(plan)
        self._next = itertools.count()
        self._latencies: list[float] = []
        self._statuses: list[int] = []
        self._context = ssl.create_default_context(cafile=plan.anchors) if plan.anchors else None

    def _connect(self) -> socket.socket:
        plain = socket.create_connection((self._plan.host, self._plan.port), timeout=120)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._context.wrap_socket(plain, server_hostname=self._plan.host) if self._context else plain

    def _work(self, ready: threading.Barrier) -> None:
        connection = None if self._plan.fresh else self._connect()
        ready.wait()
        while (number := next(self._next)) < len(self._requests):
            begin = time.perf_counter()
            if self._plan.fresh:
                with self._connect() as single:
                    status = exchange(single, self._requests[number])
            else:
                assert connection is not None
                status = exchange(connection, self._requests[number])
            self._latencies.append(time.perf_counter() - begin)
            self._statuses.append(status)
        if connection is not None:
            connection.close()

    def run(self) -> Figures:
        ready = threading.Barrier(self._plan.connections + 1)
        threads = [threading.Thread(target=self._work, args=(ready,)) for _ in range(self._plan.connections)]
        for thread in threads:
            thread.start()
        ready.wait()
        begin, cpu = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.join()
        latencies = sorted(self._latencies)
        figures = Figures(seconds=time.perf_counter() - begin, client_cpu_s=time.process_time() - cpu)
        figures.ok = sum(status == 200 for status in self._statuses)
        figures.statuses = {str(status): self._statuses.count(status) for status in sorted(set(self._statuses))}
        if latencies:
            figures.p50_ms, figures.p95_ms, figures.p99_ms = (
                1000 * latencies[min(len(latencies) - 1, int(len(latencies) * share))] for share in (0.50, 0.95, 0.99)
            )
        return figures


if __name__ == "__main__":
    sys.setswitchinterval(0.0005)
    json.dump(asdict(Load(Plan(**json.load(sys.stdin))).run()), sys.stdout)
