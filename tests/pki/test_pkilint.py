"""Nothing we write has a finding of error level in pkilint, except on purpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gateway.pki.algorithms import default_algorithm, sign
from gateway.pki.crl import CrlEntry, Reason, assemble, build_crl_tbs, encode_entry
from gateway.pki.ocsp import (
    CertState,
    SingleStatus,
    assemble_response,
    build_response_tbs,
    cert_id,
    responder_key_hash,
)
from gateway.pki.profiles import BUILTIN_PROFILES
from gateway.pki.tbs import key_bits
from tests.support.issuing import NOW_MS, certificate_for, issuing_ca, private_key, request, signed, tbs_for
from tests.support.pkilint import findings

DAY_MS = 86_400_000
KINDS = [
    "rsa-2048", "rsa-3072", "p-256", "p-384", "p-521", "brainpoolp256r1", "brainpoolp384r1", "brainpoolp512r1", "ed25519",
    "ml-dsa-44", "ml-dsa-65", "ml-dsa-87",
]  # fmt: skip
SUBJECTS = {
    "idevid": ("2.5.4.5=4711,O=Acme", ["HMN:1.3.6.1.4.1.32473.1:0a1b"]),
    "ldevid": ("CN=plc-7,O=Acme,C=DE", ["HMN:1.3.6.1.4.1.32473.1:0a1b", "PID:1.3.6.1.4.1.32473.2:4711", "UPN:a@plant.example"]),
    "tls-server": ("CN=plc-7.plant.example", ["DNS:plc-7.plant.example", "IP:192.0.2.7", "IP:2001:db8::7"]),
    "tls-client": ("CN=plc-7,1.2.840.113549.1.9.1=a@plant.example", ["email:a@plant.example", "URI:urn:acme:plc-7"]),
    "opcua-application": ("CN=plc-7,O=Acme", ["URI:urn:acme:plc-7", "DNS:plc-7.plant.example"]),
}
#: Findings of error level that are meant, with the reason.
_URN = "an ApplicationUri is a URN in practice; RFC 5280 section 4.2.1.6 wants a host only where a URI has an authority"
DELIBERATE: dict[str, dict[str, str]] = {
    "opcua-application-": {"pkix.invalid_uri_syntax": _URN},
    "tls-client-": {"pkix.invalid_uri_syntax": _URN},
    "wildcard": {"pkix.invalid_domain_name_syntax": "RFC 5280 has no wildcards, RFC 9525 section 6.3 does; off by default"},
}
CA_KINDS = [
    "p-256",
    "p-384",
    "p-521",
    "rsa-2048",
    "rsa-3072",
    "ed25519",
    "brainpoolp256r1",
    "ml-dsa-44",
    "ml-dsa-65",
    "ml-dsa-87",
]


def unexpected(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """``found`` without the deliberate findings, which are listed by the beginning of a document's name."""
    remaining = {}
    for name, codes in found.items():
        meant = {code for prefix, listed in DELIBERATE.items() if name.startswith(prefix) for code in listed}
        remaining[name] = [code for code in codes if code not in meant]
    return {name: codes for name, codes in remaining.items() if codes}


def test_certificates_of_every_profile_and_key_type(tmp_path: Path) -> None:
    documents = {}
    for name, profile in BUILTIN_PROFILES.items():
        for kind in sorted(set(KINDS) & profile.key_types):
            made = request(*SUBJECTS.get(name, ("CN=plc-7.plant.example", [])), key=private_key(kind))
            documents[f"{name}-{kind}.cert"] = certificate_for(profile, made)
    for kind in CA_KINDS:
        documents[f"ca-{kind}.cert"] = certificate_for(BUILTIN_PROFILES["tls-client"], request(), ca=issuing_ca(kind))
    server = BUILTIN_PROFILES["tls-server"]
    documents["empty-subject.cert"] = certificate_for(server, request("", ["DNS:plc-7.plant.example"]))
    full = replace(server, policies=("1.3.6.1.4.1.32473.9",), san_wildcards=True)
    documents["wildcard.cert"] = certificate_for(full, request("CN=a", ["DNS:*.plant.example"]))
    assert unexpected(findings(tmp_path, documents)) == {}


def test_lists_of_every_kind_and_ca_key_type(tmp_path: Path) -> None:
    entries = [encode_entry(CrlEntry(1000 + r.code, NOW_MS, r)) for r in Reason if r is not Reason.REMOVE_FROM_CRL]
    removed = [encode_entry(CrlEntry(1006, NOW_MS, Reason.REMOVE_FROM_CRL))]
    documents = {}
    for kind in CA_KINDS:
        documents[f"full-{kind}.crl"] = signed_list(kind, entries)
    documents["empty.crl"] = signed_list("p-256", [])
    documents["with-deltas.crl"] = signed_list("p-256", entries, delta_urls=("http://pki.example/delta.crl",))
    documents["shard.crl"] = signed_list("p-256", entries, idp_url="http://pki.example/3.crl")
    documents["delta.crl"] = signed_list("p-256", entries + removed, base_number=NOW_MS - 1)
    documents["2050.crl"] = signed_list("p-256", entries, this_update_ms=2_530_000_000_000, next_update_ms=2_530_100_000_000)
    assert unexpected(findings(tmp_path, documents)) == {}


def signed_list(kind: str, entries: list[bytes], **options: object) -> bytes:
    ca = issuing_ca(kind)
    arguments: dict[str, object] = {"number": NOW_MS, "this_update_ms": NOW_MS, "next_update_ms": NOW_MS + DAY_MS} | options
    tbs = build_crl_tbs(ca=ca.info, entries=entries, **arguments)  # type: ignore[arg-type]
    return assemble(tbs, ca.info.algorithm, sign(ca.key, ca.info.algorithm, tbs))


def test_ocsp_answers_of_every_state_and_responder_key_type(tmp_path: Path) -> None:
    documents = {}
    states = {"good": (CertState.GOOD, Reason.UNSPECIFIED), "unknown": (CertState.UNKNOWN, Reason.UNSPECIFIED)}
    states |= {reason.value: (CertState.REVOKED, reason) for reason in Reason if reason is not Reason.REMOVE_FROM_CRL}
    for kind in CA_KINDS:
        made = request("CN=responder", key=private_key(kind))
        certificate = certificate_for(BUILTIN_PROFILES["ocsp-responder"], made)
        for name, (state, reason) in states.items():
            single = SingleStatus(cert_id(issuing_ca().info, 5), state, NOW_MS, NOW_MS + DAY_MS, NOW_MS, reason)
            tbs = build_response_tbs(
                responder_key=responder_key_hash(key_bits(made.spki)), singles=[single], produced_ms=NOW_MS, nonce=b"n" * 32
            )
            algorithm = default_algorithm(made.public_key)
            signature = sign(private_key(kind), algorithm, tbs)
            documents[f"{name}-{kind}.ocsp"] = assemble_response(tbs, algorithm, signature, certificate)
    assert unexpected(findings(tmp_path, documents)) == {}


def test_the_linter_would_say_so(tmp_path: Path) -> None:
    """The control: a certificate that ends before it begins and a CRL that is no CRL are found."""
    backwards = tbs_for(BUILTIN_PROFILES["tls-client"], request()).replace(b"\x17\x0d27", b"\x17\x0d25")
    found = findings(tmp_path, {"broken.cert": signed(issuing_ca(), backwards), "broken.crl": b"\x30\x00"})
    assert found["broken.cert"]
    assert found["broken.crl"]
