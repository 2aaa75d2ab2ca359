"""canonical_form: which switches a request needs."""

from __future__ import annotations

import pytest

from gateway.errors import MalformedRequest
from gateway.pki import der, leniency
from gateway.pki.leniency import canonical_form
from tests.support.csrs import make_csr


def test_a_canonical_request_stays_as_it_is() -> None:
    data = make_csr(san=["DNS:a.example"], challenge="x")
    form = canonical_form(data)
    assert form.der == data
    assert form.acted == ()
    assert data[4:].startswith(form.signed[0])


def test_several_deviations_are_all_named() -> None:
    data = make_csr(
        version=1,
        san=["DNS:a.example"],
        challenge="x",
        ordered=False,
        algorithm=der.sequence(der.oid("1.2.840.10045.4.3.2"), der.null()),
    )
    form = canonical_form(data)
    assert set(form.acted) == {leniency.CSR_VERSION, leniency.CSR_UNORDERED_SET, leniency.CSR_NULL_PARAMETERS}
    assert canonical_form(form.der).acted == ()
    assert len(form.signed) == 1


@pytest.mark.parametrize("data", [b"", b"\x05\x00", b"\x30\x00", der.sequence(der.null())], ids=bytes.hex)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedRequest):
        canonical_form(data)


def test_each_switch_is_listed() -> None:
    constants = {value for name, value in vars(leniency).items() if name.isupper() and isinstance(value, str)}
    assert constants == leniency.ALL_LENIENCIES
