"""Indirect lists (RFC 5280 section 5.2.5): a CA speaks of certificates that others issued."""

from __future__ import annotations

import pytest
from cryptography import x509

from gateway.pki.algorithms import sign
from gateway.pki.crl import CrlEntry, Reason, assemble, build_crl_tbs, indirect_entry
from gateway.pki.names import name_from_text
from tests.pki.test_ca_tbs import ECDSA, KEY, START, root

OTHER = name_from_text("CN=Gateway 7,O=Test")


def crl(url: str | None, *entries: CrlEntry) -> x509.CertificateRevocationList:
    listed = [indirect_entry(entry, OTHER.public_bytes()) for entry in entries]
    tbs = build_crl_tbs(
        ca=root(), entries=listed, number=3, this_update_ms=START, next_update_ms=START + 86_400_000, idp_url=url, indirect=True
    )
    return x509.load_der_x509_crl(assemble(tbs, ECDSA, sign(KEY, ECDSA, tbs)))


@pytest.mark.parametrize("url", ["http://central/crl/a.crl", None])
def test_the_list_says_that_it_is_indirect(url: str | None) -> None:
    extension = crl(url).extensions.get_extension_for_class(x509.IssuingDistributionPoint)
    assert extension.critical
    assert extension.value.indirect_crl
    assert [each.value for each in extension.value.full_name or ()] == ([url] if url else [])


def test_every_entry_names_the_issuer_of_the_certificate() -> None:
    made = crl(None, CrlEntry(5, START), CrlEntry(6, START, Reason.KEY_COMPROMISE))
    for serial, reason in ((5, None), (6, x509.ReasonFlags.key_compromise)):
        entry = made.get_revoked_certificate_by_serial_number(serial)
        assert entry is not None
        issuer = entry.extensions.get_extension_for_class(x509.CertificateIssuer)
        assert issuer.critical
        assert [each.value for each in issuer.value] == [OTHER]
        if reason is None:
            with pytest.raises(x509.ExtensionNotFound):
                entry.extensions.get_extension_for_class(x509.CRLReason)
        else:
            assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is reason
