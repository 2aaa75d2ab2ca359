"""The ceremony of the CA: each step once, each check with its own words."""

import asyncio
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority.lifecycle import DEMO_LABEL, Ceremony, demo_ca
from gateway.errors import AlreadyExists, NotFound, OperatorError
from gateway.journal.records import CaActivated, CaKeyGenerated, CaRequested
from gateway.keys.signer import KeySpec, Signer
from gateway.pki.names import name_from_text
from tests.support.ceremony_root import ROOT_NAME, ca_certificate, root_certificate, root_key, sub_ca
from tests.support.status_stack import OPERATOR, CountingSigner, StatusStack, pem, status_stack

SUBJECT = name_from_text("CN=Plant CA 1,O=Acme")
CA_USAGE = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
    key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
)  # fmt: skip


async def requested(stack: StatusStack, spec: KeySpec = KeySpec.P256) -> bytes:
    await stack.ceremony.keygen("software:ca-1", spec, OPERATOR)
    return (await stack.ceremony.csr(SUBJECT, OPERATOR)).der


async def test_the_whole_ceremony_is_journalled_and_printed(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        generated = await stack.ceremony.keygen("software:ca-1", KeySpec.P256, OPERATOR)
        step = await stack.ceremony.csr(SUBJECT, OPERATOR)
        certificate, root = sub_ca(step.der)
        activated = await stack.ceremony.import_certificate(certificate, (root,), OPERATOR)
        kinds = [type(r.payload) async for r in stack.journal.scan(CaKeyGenerated, CaRequested, CaActivated)]
        assert kinds == [CaKeyGenerated, CaRequested, CaActivated]
        spki = x509.load_der_x509_csr(step.der).public_key()
        for protocol in (generated.protocol, step.protocol, activated.protocol):
            assert f"operator:             {OPERATOR}" in protocol
            assert "public key SHA-256" in protocol
        assert "O=Acme" in step.protocol
        assert ROOT_NAME.rfc4514_string() in activated.protocol
        assert activated.warnings == ()
        assert (generated.der, activated.der) == (b"", certificate)
        (generation,) = await stack.generations.refresh()
        assert generation.signer.public_key == spki
        assert not generation.demo


@pytest.mark.parametrize("spec", [KeySpec.P256, KeySpec.P384, KeySpec.RSA_2048, KeySpec.ED25519, KeySpec.ML_DSA_65])
async def test_the_csr_is_one_that_others_accept(tmp_path: Path, spec: KeySpec) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        csr = x509.load_der_x509_csr(await requested(stack, spec))
        assert csr.is_signature_valid
        assert csr.subject == SUBJECT
        constraints = csr.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(ca=True, path_length=0))
        usage = csr.extensions.get_extension_for_class(x509.KeyUsage)
        assert (usage.critical, usage.value) == (True, CA_USAGE)
        assert csr.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        if spec is not KeySpec.ML_DSA_65:  # not known to OpenSSL 3.0
            (tmp_path / "ca.csr").write_bytes(csr.public_bytes(Encoding.PEM))
            assert "verify OK" in stack.openssl("req", "-in", "ca.csr", "-noout", "-verify")


async def test_steps_out_of_order_are_refused(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        with pytest.raises(NotFound, match="keygen"):
            await stack.ceremony.csr(SUBJECT, OPERATOR)
        with pytest.raises(NotFound, match="keygen"):
            await stack.ceremony.import_certificate(root_certificate(), (), OPERATOR)
        with pytest.raises(NotFound, match="keygen"):
            await stack.ceremony.renew("software:ca-2", KeySpec.P256, OPERATOR)
        await stack.ceremony.keygen("software:ca-1", KeySpec.P256, OPERATOR)
        with pytest.raises(AlreadyExists, match="csr"):
            await stack.ceremony.renew("software:ca-2", KeySpec.P256, OPERATOR)


async def test_nothing_is_overwritten(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        certificate, root = sub_ca(await requested(stack))
        with pytest.raises(AlreadyExists, match="renew"):
            await stack.ceremony.keygen("software:ca-9", KeySpec.P256, OPERATOR)
        await stack.ceremony.import_certificate(certificate, (root,), OPERATOR)
        with pytest.raises(AlreadyExists, match="imported before"):
            await stack.ceremony.import_certificate(certificate, (root,), OPERATOR)
        with pytest.raises(AlreadyExists, match="renew"):
            await stack.ceremony.csr(SUBJECT, OPERATOR)
        with pytest.raises(AlreadyExists):
            await stack.ceremony.renew("software:ca-1", KeySpec.P256, OPERATOR)  # the place of the present key
        assert [status.number for status in await stack.ceremony.status()] == [1]


async def test_a_csr_may_be_asked_for_again_until_the_import(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        first = await requested(stack)
        second = (await stack.ceremony.csr(name_from_text("CN=Another name"), OPERATOR)).der
        assert x509.load_der_x509_csr(second).public_key() == x509.load_der_x509_csr(first).public_key()


async def test_a_key_swapped_behind_our_back_signs_no_csr(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        await stack.ceremony.keygen("software:ca-1", KeySpec.P256, OPERATOR)
        stack.ring.software.erase("ca-1")
        stack.ring.software.generate("ca-1", KeySpec.P256)
        with pytest.raises(OperatorError, match="not the one that was generated"):
            await stack.ceremony.csr(SUBJECT, OPERATOR)


async def test_status_shows_where_every_generation_stands(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        assert await stack.ceremony.status() == ()
        await stack.ceremony.keygen("software:ca-1", KeySpec.P256, OPERATOR)
        assert [status.state for status in await stack.ceremony.status()] == ["key-generated"]
        csr = (await stack.ceremony.csr(SUBJECT, OPERATOR)).der
        assert [status.state for status in await stack.ceremony.status()] == ["requested"]
        certificate, root = sub_ca(csr)
        await stack.ceremony.import_certificate(certificate, (root,), OPERATOR)
        (active,) = await stack.ceremony.status()
        assert (active.state, active.certificate, active.uri) == ("active", certificate, "software:ca-1")
        assert active.not_after_ms > stack.clock.now_ms()
        await stack.ceremony.renew("software:ca-2", KeySpec.P256, OPERATOR)
        assert [status.state for status in await stack.ceremony.status()] == ["key-generated", "active"]
        second, root = sub_ca((await stack.ceremony.csr(SUBJECT, OPERATOR)).der)
        await stack.ceremony.import_certificate(second, (root,), OPERATOR)
        assert [status.state for status in await stack.ceremony.status()] == ["active", "superseded"]


async def test_a_certificate_for_another_key_is_refused(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        await requested(stack)
        other = ec.generate_private_key(ec.SECP256R1()).public_key()
        certificate = ca_certificate(SUBJECT, other, issuer=ROOT_NAME, issuer_key=root_key())
        with pytest.raises(OperatorError, match="another key"):
            await stack.ceremony.import_certificate(certificate, (root_certificate(),), OPERATOR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ca": False}, "may not sign certificates"),
        ({"crl_sign": False}, "may not sign certificates and CRLs"),
        ({"start": timedelta(days=-9), "end": timedelta(days=-1)}, "clock says"),
        ({"start": timedelta(days=1)}, "clock says"),
    ],
)
async def test_a_certificate_that_cannot_issue_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        certificate, root = sub_ca(await requested(stack), **options)
        with pytest.raises(OperatorError, match=message):
            await stack.ceremony.import_certificate(certificate, (root,), OPERATOR)
        assert [status.state for status in await stack.ceremony.status()] == ["requested"]


async def test_a_certificate_without_path_length_zero_is_warned_about(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        certificate, _ = sub_ca(await requested(stack), path_length=None)
        root = root_certificate(end=timedelta(days=100))
        step = await stack.ceremony.import_certificate(certificate, (root,), OPERATOR)
        assert len(step.warnings) == 2
        assert _labels(step.protocol).count("warning") == 2
        assert "pathLen 0" in step.protocol
        assert "expires before" in step.protocol


async def test_the_chain_may_come_in_any_order_and_is_recorded_in_one(tmp_path: Path) -> None:
    middle_key = ec.generate_private_key(ec.SECP256R1())
    middle_name = name_from_text("CN=Middle")
    middle = ca_certificate(middle_name, middle_key.public_key(), issuer=ROOT_NAME, issuer_key=root_key(), path_length=1)
    async with status_stack(tmp_path, demo=False) as stack:
        key = x509.load_der_x509_csr(await requested(stack)).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        certificate = ca_certificate(SUBJECT, key, issuer=middle_name, issuer_key=middle_key)
        root = root_certificate()
        await stack.ceremony.import_certificate(certificate, (root, middle), OPERATOR)
        (generation,) = await stack.generations.refresh()
        assert generation.chain == (middle, root)
        (tmp_path / "root.pem").write_bytes(pem(root))
        (tmp_path / "middle.pem").write_bytes(pem(middle))
        (tmp_path / "ca.pem").write_bytes(pem(certificate))
        verdict = stack.openssl("verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "middle.pem", "ca.pem")
        assert verdict == "ca.pem: OK\n"


async def import_under(stack: StatusStack, *chain: bytes, issuer_key: ec.EllipticCurvePrivateKey | None = None) -> None:
    key = x509.load_der_x509_csr(await requested(stack)).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    certificate = ca_certificate(SUBJECT, key, issuer=ROOT_NAME, issuer_key=issuer_key or root_key())
    await stack.ceremony.import_certificate(certificate, chain, OPERATOR)


async def test_a_chain_without_the_root_is_refused(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        with pytest.raises(OperatorError, match="does not reach a root"):
            await import_under(stack)


async def test_a_root_of_the_same_name_with_another_key_is_refused(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        with pytest.raises(OperatorError, match="does not reach a root"):
            await import_under(stack, root_certificate(), issuer_key=ec.generate_private_key(ec.SECP256R1()))


async def test_a_chain_that_is_not_certificates_is_refused(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        with pytest.raises(OperatorError, match="cannot be read"):
            await import_under(stack, b"garbage")


async def test_an_issuer_that_is_no_ca_is_refused(tmp_path: Path) -> None:
    root = ca_certificate(ROOT_NAME, root_key().public_key(), issuer=ROOT_NAME, issuer_key=root_key(), ca=False)
    async with status_stack(tmp_path, demo=False) as stack:
        with pytest.raises(OperatorError, match="is not a CA"):
            await import_under(stack, root)


async def test_a_path_length_of_the_root_is_heeded(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        with pytest.raises(OperatorError, match="pathLen"):
            await import_under(stack, root_certificate(path_length=0))


async def test_a_root_with_a_wrong_signature_of_its_own_is_refused(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    root = ca_certificate(ROOT_NAME, root_key().public_key(), issuer=ROOT_NAME, issuer_key=other)
    async with status_stack(tmp_path, demo=False) as stack:
        with pytest.raises(OperatorError, match="signature of the root"):
            await import_under(stack, root)


async def test_a_self_signed_certificate_is_no_sub_ca(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        await requested(stack)
        key = stack.ring.software.load("ca-1")
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        certificate = ca_certificate(SUBJECT, key.public_key(), issuer=SUBJECT, issuer_key=key)
        with pytest.raises(OperatorError, match="self-signed"):
            await stack.ceremony.import_certificate(certificate, (), OPERATOR)


async def test_the_demo_says_what_it_is_everywhere_and_openssl_trusts_it(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        assert stack.root is not None
        stack.write_chain()
        assert stack.openssl("verify", "-x509_strict", "-CAfile", "root.pem", "ca.pem") == "ca.pem: OK\n"
        root = x509.load_der_x509_certificate(stack.root.certificate)
        for name in (root.subject, stack.generations.active.ca.certificate.subject):
            for attribute in name:
                assert DEMO_LABEL in str(attribute.value)
        assert (await stack.ceremony.status())[0].demo
        crl = x509.load_der_x509_crl(stack.root.crl)
        assert len(crl) == 0
        assert not any(extension.critical for extension in crl.extensions)
        assert crl.is_signature_valid(root.public_key())  # type: ignore[arg-type]
        (tmp_path / "root.crl").write_bytes(crl.public_bytes(Encoding.PEM))
        verdict = stack.openssl("verify", "-CAfile", "root.pem", "-CRLfile", "root.crl", "-crl_check", "ca.pem")
        assert verdict == "ca.pem: OK\n"


async def test_the_demo_does_not_replace_a_real_ca(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        await stack.ceremony.keygen("software:ca-1", KeySpec.P256, "somebody else")
        with pytest.raises(AlreadyExists):
            await stack.activate_demo()


async def test_the_demo_is_made_once(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        with pytest.raises(AlreadyExists):
            await stack.activate_demo()


@pytest.mark.parametrize("done", ["key", "keygen", "csr"])
async def test_an_interrupted_demo_goes_on_where_it_was(tmp_path: Path, done: str) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        if done == "key":
            await stack.ring.generate("software:ca-1", KeySpec.P256)
        else:
            await stack.ceremony.keygen("software:ca-1", KeySpec.P256, OPERATOR)
        if done == "csr":
            await stack.ceremony.csr(SUBJECT, OPERATOR)
        await stack.activate_demo()
        assert stack.generations.active.demo


async def test_a_key_that_is_there_already_is_adopted_only_when_asked(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        signer = await stack.ring.generate("software:ca-1", KeySpec.P384)
        with pytest.raises(AlreadyExists):
            await stack.ceremony.keygen("software:ca-1", KeySpec.P384, OPERATOR)
        await stack.ceremony.keygen("software:ca-1", KeySpec.P384, OPERATOR, adopt=True)
        csr = x509.load_der_x509_csr((await stack.ceremony.csr(SUBJECT, OPERATOR)).der)
        assert csr.public_key() == signer.public_key


async def test_two_operators_at_once_do_not_begin_the_same_generation(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        steps = [stack.ceremony.renew(f"software:ca-{name}", KeySpec.P256, name) for name in ("anna", "bert")]
        results = await asyncio.gather(*steps, return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["AlreadyExists", "CeremonyStep"]
        records = [record.payload async for record in stack.journal.scan(CaKeyGenerated)]
        generations = [payload.generation for payload in records if isinstance(payload, CaKeyGenerated)]
        assert generations == sorted(set(generations))


async def test_a_parent_of_the_first_version_is_no_ca(tmp_path: Path) -> None:
    """A certificate without basicConstraints may sign nothing (RFC 5280 section 6.1.4, k)."""
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(ROOT_NAME).issuer_name(ROOT_NAME).public_key(root_key().public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=800))
    root = builder.sign(root_key(), hashes.SHA256()).public_bytes(Encoding.DER)
    async with status_stack(tmp_path, demo=False) as stack:
        with pytest.raises(OperatorError, match="no basicConstraints"):
            await import_under(stack, root)


async def test_a_ca_above_that_expires_at_the_same_moment_is_no_warning(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        csr = await requested(stack)
        for _ in range(5):  # both are made within the same second, nearly always at once
            (certificate, _), root = sub_ca(csr, end=timedelta(days=800)), root_certificate()
            if _ends(certificate) == _ends(root):
                break
        assert _ends(certificate) == _ends(root)
        assert (await stack.ceremony.import_certificate(certificate, (root,), OPERATOR)).warnings == ()


def _ends(certificate: bytes) -> datetime:
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc


class TokenKeys:
    """A key ring that keeps its keys on a token with a serial number."""

    def __init__(self, stack: StatusStack) -> None:
        self._ring, self.open = stack.ring, stack.ring.open

    async def generate(self, uri: str, spec: KeySpec) -> Signer:
        signer = CountingSigner(await self._ring.generate(uri, spec))
        health = replace(signer.health(), token_serial="4711")
        signer.health = lambda: health  # type: ignore[method-assign]
        return signer


async def test_what_is_signed_by_hand_names_everything_that_matters(tmp_path: Path) -> None:
    """The operator compares these lines with what the parent CA and the token say."""
    async with status_stack(tmp_path, demo=False) as stack:
        ceremony = Ceremony(stack.journal, TokenKeys(stack), stack.clock)
        generated = await ceremony.keygen("software:ca-1", KeySpec.P256, OPERATOR)
        step = await ceremony.csr(SUBJECT, OPERATOR)
        certificate, root = sub_ca(step.der)
        activated = await ceremony.import_certificate(certificate, (root,), OPERATOR)
        assert _labels(generated.protocol) == [
            "step", "time", "operator", "generation", "key", "key type", "public key SHA-256", "key identifier",
            "token serial number", "signature",
        ]  # fmt: skip
        assert "token serial number:  4711" in generated.protocol
        (moment,) = [line.split()[1] for line in generated.protocol.splitlines() if line.strip().startswith("time:")]
        assert abs(datetime.now(UTC) - datetime.fromisoformat(moment)) < timedelta(minutes=30)
        assert _labels(step.protocol) == [
            "step", "time", "operator", "generation", "subject", "CSR SHA-256", "public key SHA-256", "key identifier",
            "signature",
        ]  # fmt: skip
        assert _labels(activated.protocol) == [
            "step", "time", "operator", "generation", "subject", "certificate SHA-256", "issuer", "issuer SHA-256",
            "valid until", "public key SHA-256", "key identifier", "signature",
        ]  # fmt: skip
        assert hashlib.sha256(certificate).hexdigest() in activated.protocol
        (recorded,) = [record.payload async for record in stack.journal.scan(CaKeyGenerated)]
        assert isinstance(recorded, CaKeyGenerated)
        assert recorded.token_serial == "4711"


def _labels(protocol: str) -> list[str]:
    """What stands before the colons."""
    return [line[:22].strip().removesuffix(":") for line in protocol.splitlines()[1:]]


async def test_a_generation_without_a_certificate_has_no_end(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        await requested(stack)
        (status,) = await stack.ceremony.status()
        assert (status.certificate, status.not_after_ms) == (None, 0)


async def test_the_demo_ca_cannot_make_further_cas_and_its_root_can_make_it(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        assert stack.root is not None
        root = x509.load_der_x509_certificate(stack.root.certificate)
        found = []
        for certificate in (stack.generations.active.ca.certificate, root):
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
            found.append((constraints.critical, constraints.value.ca, constraints.value.path_length))
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
            assert (usage.critical, usage.value) == (True, CA_USAGE)
            assert timedelta(minutes=4) <= datetime.now(UTC) - certificate.not_valid_before_utc <= timedelta(minutes=30)
        crl = x509.load_der_x509_crl(stack.root.crl)
        assert timedelta(minutes=4) <= datetime.now(UTC) - crl.last_update_utc <= timedelta(minutes=30)
        assert found == [(True, True, 0), (True, True, None)]


async def test_the_demo_takes_a_long_name_and_cuts_it(tmp_path: Path) -> None:
    """A common name has 64 characters at most (RFC 5280 appendix A.1)."""
    async with status_stack(tmp_path, demo=False) as stack:
        await demo_ca(stack.ceremony, stack.clock, uri="software:ca-1", name="x" * 80, operator=OPERATOR)
        await stack.generations.refresh()
        (ca,) = stack.generations.all
        for der, role in ((ca.certificate, "issuing CA"), (ca.chain[0], "root CA")):
            name = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
            assert (len(name), str(name).lstrip("x")) == (64, f" {role} {DEMO_LABEL}")
