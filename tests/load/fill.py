"""Fills a stopped gateway's journal with made-up but well-formed certificates, to see what a large journal costs.

Intents and certificates go through the journal's own writer, so rows, indexes and checkpoints are the real ones; only the
cryptography is left out (the signatures are random).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from gateway.app import opened
from gateway.config import load_config
from gateway.demo import CONFIG_NAME
from gateway.journal.records import Intent, Issued
from gateway.pki.algorithms import SignatureAlgorithm
from gateway.pki.tbs import assemble, new_serial

_BATCH = 250
_TBS_BYTES = 420
_SIGNATURE_BYTES = 71


async def fill(state: Path, certificates: int, say: Callable[[str], None]) -> list[float]:
    """Append ``certificates`` issued certificates; CPU microseconds per certificate in each fifth of the work."""
    config = load_config(state / CONFIG_NAME).with_state(state)
    costs: list[float] = []
    async with opened(config) as gateway:
        for fifth in range(5):
            begin = time.process_time()
            for _ in range(certificates // 5 // _BATCH):
                planned = await gateway.journal.append(*(_intent() for _ in range(_BATCH)))
                await gateway.journal.append(
                    *(_issued(each.seq, each.payload) for each in planned if isinstance(each.payload, Intent))
                )
            costs.append((time.process_time() - begin) / (certificates / 5) * 1e6)
            say(f"{(fifth + 1) * certificates // 5} certificates, {costs[-1]:.0f} us each")
    return costs


def _intent() -> Intent:
    return Intent(
        serial=f"{new_serial(time.time_ns() // 1_000_000, os.urandom(12)):x}",
        tbs=os.urandom(_TBS_BYTES),
        algorithm="ECDSA_SHA256",
        generation=1,
        profile="filled",
        protocol="load",
        operation="enroll",
        requester="token:filled",
        csr_digest=os.urandom(32),
        spki_digest=os.urandom(32),
        policy_version=1,
        idempotency_key=os.urandom(32),
        quota=("profile:filled",),
    )


def _issued(seq: int, intent: Intent) -> Issued:
    signature = os.urandom(_SIGNATURE_BYTES)
    certificate = assemble(intent.tbs, SignatureAlgorithm[intent.algorithm], signature)
    return Issued(seq, intent.serial, signature, hashlib.sha256(certificate).digest(), intent.idempotency_key)
