"""What a revocation list of N entries costs: encoding each entry as it is revoked, and one build and signature.

``python -m tests.load.crl_cost N`` prints JSON with CPU seconds. In a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import sys
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority.status import EntryTable
from gateway.pki import algorithms
from gateway.pki.crl import Reason, assemble, build_crl_tbs
from gateway.pki.tbs import ca_info, new_serial

DER = Encoding.DER


def _authority(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Bench CA")])
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(True, 0), True).add_extension(usage, True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    return builder.sign(key, hashes.SHA256()).public_bytes(DER)


def main() -> None:
    count = int(sys.argv[1])
    now_ms = time.time_ns() // 1_000_000
    key = ec.generate_private_key(ec.SECP256R1())
    ca = ca_info(_authority(key))
    serials = [new_serial(now_ms, os.urandom(12)) for _ in range(count)]
    table = EntryTable()
    begin = time.process_time()
    for serial in serials:
        table.put(serial, now_ms, Reason.SUPERSEDED)
    entered = time.process_time()
    tbs = build_crl_tbs(ca=ca, entries=[table.joined()], number=1, this_update_ms=now_ms, next_update_ms=now_ms + 86_400_000)
    signed = assemble(tbs, ca.algorithm, algorithms.sign(key, ca.algorithm, tbs))
    done = time.process_time()
    figures = {
        "entries": count,
        "publish_cpu_s": done - entered,
        "revoke_us_each": (entered - begin) / count * 1e6,
        "bytes": len(signed),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
