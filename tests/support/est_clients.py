"""Real EST clients that nobody here wrote, as commands against any host and port.

curl with openssl (the README's way), strongSwan's ``pki``, and the EST client of Bouncy Castle, driven by a few lines of
Java (``EstClient.java`` beside this file). Debian packages: curl, openssl, strongswan-pki, libstrongswan-extra-plugins,
libcharon-extra-plugins, libbcpkix-java, default-jdk-headless.
"""

from __future__ import annotations

import base64
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

#: strongSwan prints warnings about plugins that need hardware; they are no failure.
TIMEOUT_S = 120
_JARS = ":".join(f"/usr/share/java/{name}.jar" for name in ("bcprov", "bcutil", "bcpkix"))


@dataclass(frozen=True, slots=True)
class Result:
    """``returncode`` 0 is success; ``certificate`` is DER."""

    returncode: int
    log: str
    certificate: bytes = b""
    status: int = 0
    body: bytes = b""


@dataclass(slots=True)
class Service:
    """Where the EST server is and which files a client needs: PEM ``anchor`` (the root) and PEM ``issuing`` (the sub-CA)."""

    host: str
    port: int
    anchor: Path
    issuing: Path
    work: Path
    label: str = ""
    count: int = field(default=0)

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    def file(self, name: str) -> Path:
        self.count += 1
        return self.work / f"{self.count}-{name}"


def run(*command: str | Path, input_: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(part) for part in command], input=input_, capture_output=True, timeout=TIMEOUT_S, check=False)


def openssl_request(service: Service, common_name: str, *, key_type: str = "ec", serial_number: str = "") -> tuple[Path, Path]:
    """Key (PEM) and certification request (DER) made by openssl."""
    key, request = service.file("key.pem"), service.file("request.der")
    new = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"] if key_type == "ec" else ["rsa:2048"]
    made = run(
        "openssl",
        "req",
        "-new",
        "-newkey",
        *new,
        "-nodes",
        "-keyout",
        key,
        "-subj",
        f"/CN={common_name}" + (f"/serialNumber={serial_number}" if serial_number else ""),
        "-outform",
        "DER",
        "-out",
        request,
    )
    assert made.returncode == 0, made.stderr
    return key, request


def curl(
    service: Service,
    operation: str,
    *,
    body: bytes | None = None,
    user: str = "",
    client: tuple[Path, Path] | None = None,
    extra: tuple[str, ...] = (),
) -> Result:
    """One EST operation with curl. Credentials go through a configuration on standard input, never through arguments."""
    label = f"/{service.label}" if service.label else ""
    answer, head = service.file("answer"), service.file("head")
    command = ["curl", "-sS", "--cacert", service.anchor, "-o", answer, "-D", head, "-w", "%{http_code}", "-K", "-", *extra]
    if body is not None:
        upload = service.file("upload")
        upload.write_bytes(body)
        command += ["-H", "Content-Type: application/pkcs10", "--data-binary", f"@{upload}"]
    if client:
        command += ["--cert", client[0], "--key", client[1]]
    done = run(
        *command, f"{service.url}/.well-known/est{label}/{operation}", input_=f'user = "{user}"\n'.encode() if user else b""
    )
    content = answer.read_bytes() if answer.exists() else b""
    return Result(
        done.returncode,
        done.stderr.decode() + (head.read_text() if head.exists() else ""),
        _first_certificate(service, content)
        if done.stdout == b"200" and operation != "csrattrs" and content[:3] == b"MII"
        else b"",
        int(done.stdout or 0),
        content,
    )


def _first_certificate(service: Service, text: bytes) -> bytes:
    """The first certificate of a base64 certs-only answer, taken out by openssl."""
    pkcs7, pem, der = service.file("answer.p7"), service.file("answer.pem"), service.file("answer.der")
    decoded = run("openssl", "base64", "-d", *([] if b"\n" in text else ["-A"]), input_=text)
    assert decoded.returncode == 0, decoded.stderr
    pkcs7.write_bytes(decoded.stdout)
    made = run("openssl", "pkcs7", "-inform", "DER", "-in", pkcs7, "-print_certs", "-out", pem)
    assert made.returncode == 0, made.stderr
    made = run("openssl", "x509", "-in", pem, "-outform", "DER", "-out", der)
    assert made.returncode == 0, made.stderr
    return der.read_bytes()


def strongswan_cacerts(service: Service) -> list[bytes]:
    """``pki --estca``: the DER files it wrote."""
    target = service.file("ca.der")
    done = run("pki", "--estca", "--url", service.url, "--cacert", service.anchor, "--caout", target, "--force")
    assert done.returncode == 0, done.stderr.decode()
    return [path.read_bytes() for path in sorted(service.work.glob(f"{target.stem}*.der"))]


def strongswan_enroll(
    service: Service, request: Path, *, user: str = "", client: tuple[Path, Path] | None = None, poll_s: int = 0
) -> Result:
    """``pki --est``: enrol, or renew with ``client`` (PEM certificate and key). Options go through a file, not argv."""
    options = service.file("options")
    lines = [f"--url {service.url}", f"--in {request}", f"--cacert {service.anchor}", f"--cacert {service.issuing}"]
    if user:
        lines.append(f"--userpass {user}")
    if client:
        certificate, key = service.file("client.der"), service.file("client.key")
        run("openssl", "x509", "-in", client[0], "-outform", "DER", "-out", certificate)
        run("openssl", "pkey", "-in", client[1], "-out", key)
        lines += [f"--cert {certificate}", f"--key {key}"]
    if poll_s:
        lines += ["--interval 1", f"--maxpolltime {poll_s}"]
    options.write_text("\n".join(lines) + "\n")
    done = run("pki", "--est", "--options", options)
    return Result(done.returncode, done.stderr.decode(), done.stdout)


def bouncy_castle(
    service: Service, operation: str, *, user: str = "", common_name: str = "device-bc", client: tuple[Path, Path] | None = None
) -> Result:
    """``cacerts``, ``csrattrs``, ``simpleenroll``, ``simplereenroll`` or ``serverkeygen`` by Bouncy Castle's ESTService.

    The certificate is what the client understood; ``log`` is what it printed.
    """
    keystore = service.file("client.p12")
    if client:
        run(
            "openssl",
            "pkcs12",
            "-export",
            "-in",
            client[0],
            "-inkey",
            client[1],
            "-out",
            keystore,
            "-passout",
            "pass:none",
            "-name",
            "client",
        )
    answer = service.file("bc.der")
    classes = service.work / "classes"
    if not classes.exists():
        built = run("javac", "-cp", _JARS, "-d", classes, Path(__file__).with_name("EstClient.java"))
        assert built.returncode == 0, built.stderr.decode()
    arguments = (
        "\n".join(
            (
                f"{service.host}:{service.port}",
                operation,
                str(service.anchor),
                str(answer),
                common_name,
                user,
                str(keystore) if client else "",
                service.label,
            )
        )
        + "\n"
    )
    done = run("java", "-cp", f"{_JARS}:{classes}", "EstClient", input_=arguments.encode())
    return Result(done.returncode, (done.stdout + done.stderr).decode(), answer.read_bytes() if answer.exists() else b"")


def one_line(der: bytes) -> bytes:
    return base64.b64encode(der)
