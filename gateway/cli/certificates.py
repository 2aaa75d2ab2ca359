"""``issue | revoke | prove``: one certificate at a time."""

from __future__ import annotations

import base64

from cryptography import x509

from gateway.cli.context import Context, ExitCode, JsonObject, read_input, write_output
from gateway.cli.control_client import control
from gateway.errors import MalformedRequest


async def issue(context: Context) -> int:
    body: JsonObject = {
        "profile": context.text("profile"),
        "csr": base64.b64encode(_der(read_input(context.text("csr")))).decode(),
    }
    async with control(context) as gateway:
        answer = await gateway.post("/certificates", body)
    if answer.get("pending"):
        context.show(
            answer, f"request {answer['request_id']} waits: edge-gateway approve {answer['request_id']}, then issue again"
        )
        return ExitCode.WAITING
    output = context.text("output")
    pem = str(answer["pem"])
    if output != "-":
        write_output(output, pem.encode())
    words = pem.rstrip("\n") if output == "-" else f"serial {answer['serial']}, written to {output}"
    context.show(answer, words)
    return ExitCode.OK


def _der(data: bytes) -> bytes:
    """DER of a CSR file in PEM or DER; whether it is a good CSR is the gateway's business."""
    begin, end = data.find(b"-----BEGIN"), data.find(b"-----END")
    if begin < 0:
        return data
    lines = data[begin:end].splitlines()[1:]
    try:
        return base64.b64decode(b"".join(lines), validate=True)
    except ValueError as error:
        raise MalformedRequest("the file is not a PEM certificate request") from error


async def revoke(context: Context) -> int:
    serial = _serial(context.text("certificate"))
    release = context.flag("release")
    async with control(context) as gateway:
        if release:
            answer = await gateway.post("/releases", {"serial": serial})
        else:
            answer = await gateway.post("/revocations", {"serial": serial, "reason": context.text("reason")})
    context.show(
        answer, f"certificate {serial} is {'released from its hold' if release else 'revoked'}; the CRL follows at once"
    )
    return ExitCode.OK


def _serial(text: str) -> str:
    """Lower-case hex from a hex number (colons allowed) or from a certificate file."""
    digits = text.replace(":", "").lower().lstrip("0")
    if digits and all(digit in "0123456789abcdef" for digit in digits):
        return digits
    data = read_input(text)
    try:
        pem = data.lstrip().startswith(b"-----BEGIN")
        certificate = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise MalformedRequest(f"{text} is neither a serial number in hex nor a certificate") from error
    return f"{certificate.serial_number:x}"


async def prove(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.get(f"/proofs/{_serial(context.text('serial'))}")
    output = context.text("output")
    write_output(output, str(answer["proof"]).encode())
    if output != "-":
        context.show(answer, f"the proof is in {output}; it checks with the journal's public key alone (docs/OPERATIONS.md)")
    return ExitCode.OK
