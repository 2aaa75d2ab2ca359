"""Who may have which certificate. Pure: the same policy, request and time always give the same decision.

A :class:`Policy` is one immutable value, replaced as a whole when a new version applies. :func:`decide` reads from top to
bottom as the list of reasons to say no; what it does not look at (how much quota is left, what a person approved, what was
issued before) is state and belongs to :mod:`gateway.authority.issue`. What goes into the certificate is the profile's matter
(:mod:`gateway.pki.profiles`).

Two kinds of requester may choose names: a station, a token or an operator within the allow-list; and two may not: an IDevID
speaks for the device whose serialNumber it carries (IEEE 802.1AR-2018 clause 6.2.3), and the holder of a certificate of ours
asks for its own names again (RFC 7030 section 4.2.2). The gateway itself is bound by none of this, or its TLS and OCSP
certificates would run out together with the policy.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

from cryptography import x509
from cryptography.x509.oid import NameOID

from gateway.authority.requests import EnrollmentRequest, Holder, Operation, Requester, RequesterKind, TokenGrant
from gateway.errors import BadKey, Forbidden, MalformedRequest, NotFound, RequestError, Unauthenticated
from gateway.pki import leniency
from gateway.pki.csr import CertificationRequest
from gateway.pki.extensions import kind_of
from gateway.pki.keycheck import check_key
from gateway.pki.names import name_from_text
from gateway.pki.profiles import Profile
from gateway.pki.subjects import certificate_names, certificate_subject

#: Re-enrolment may change subject and alternative names (within the allow-list): for devices that were renamed in the field.
REENROLL_SUBJECT_CHANGE = "reenroll-subject-change"
#: An expired certificate of ours still proves who asks for its renewal, for :attr:`ProfileRule.renew_grace_s`.
RENEW_AFTER_EXPIRY = "renew-after-expiry"
#: No switch, but recorded like one: a certificate was renewed under other names (:attr:`ProfileRule.allow_name_change`).
NAME_CHANGE = "name-change"
#: Every switch a rule may turn on.
LENIENCY_SWITCHES = leniency.ALL_LENIENCIES | {REENROLL_SUBJECT_CHANGE, RENEW_AFTER_EXPIRY}

#: What an allow-list can speak about: two subject attributes and the SAN kinds whose values are text.
ALLOW_KINDS = ("serialNumber", "CN", "DNS", "IP", "URI", "email")
_ATTRIBUTES = {"serialNumber": NameOID.SERIAL_NUMBER, "CN": NameOID.COMMON_NAME}


@dataclass(frozen=True, slots=True)
class AllowList:
    """Which names may be asked for. ``values`` and ``patterns`` are by kind (:data:`ALLOW_KINDS`); a kind in neither is free.

    A kind that is listed must be matched by every name of that kind in the request; a listed subject attribute must also be
    there. Values compare exactly, DNS names and e-mail addresses in lower case.
    """

    values: Mapping[str, frozenset[str]] = field(default_factory=dict)
    patterns: Mapping[str, tuple[re.Pattern[str], ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.values or self.patterns)

    def check(self, csr: CertificationRequest) -> None:
        """Raise Forbidden naming the first name that is not allowed."""
        for kind, oid in _ATTRIBUTES.items():
            if kind in self.values or kind in self.patterns:
                found = [_text(attribute) for attribute in csr.subject.get_attributes_for_oid(oid)]
                if not found:
                    raise Forbidden(f"the allow-list of this profile needs {kind} in the subject")
                for text in found:
                    self._check_one(kind, text)
        for name in csr.san:
            kind = kind_of(name)
            if kind in self.values or kind in self.patterns:
                self._check_one(kind, str(name.value))

    def _check_one(self, kind: str, text: str) -> None:
        if kind in ("DNS", "email"):
            text = text.lower()
        if text in self.values.get(kind, ()):
            return
        if not any(pattern.fullmatch(text) for pattern in self.patterns.get(kind, ())):
            raise Forbidden(f"{kind} {text[:80]!r} is not on the allow-list of this profile")


def allow_list(entries: Mapping[str, tuple[str, ...]]) -> AllowList:
    """An allow-list from texts by kind; one with ``*``, ``?`` or ``[`` is a pattern as a shell knows it, case-sensitive."""
    values: dict[str, frozenset[str]] = {}
    patterns: dict[str, tuple[re.Pattern[str], ...]] = {}
    for kind, texts in entries.items():
        folded = [text.lower() for text in texts] if kind in ("DNS", "email") else list(texts)
        wild = [text for text in folded if any(sign in text for sign in "*?[")]
        values[kind] = frozenset(folded) - frozenset(wild)
        patterns[kind] = tuple(re.compile(fnmatch.translate(text)) for text in wild)
    return AllowList(values, patterns)


class LintLevel(Enum):
    """From which finding on a planned certificate is not signed."""

    OFF = "off"
    ERROR = "error"
    WARNING = "warning"


class ClockDoubt(Enum):
    """What to do while the clock lies behind the journal by more than :attr:`Policy.clock_tolerance_ms`."""

    STOP = "stop"
    MARK = "mark"  # issue, and record that the time is uncertain


@dataclass(frozen=True, slots=True)
class ProfileRule:
    """Who gets certificates of one profile, and how often. Times in seconds."""

    profile: Profile
    requesters: frozenset[RequesterKind]
    allow: AllowList = field(default_factory=AllowList)
    quota: int | None = None
    approval: bool = False
    lint: LintLevel = LintLevel.ERROR
    leniency: frozenset[str] = frozenset()
    #: How long an identical request gets the identical certificate.
    retry_window_s: int = 86_400
    #: How long after its end a certificate may still be renewed where ``renew-after-expiry`` is on.
    renew_grace_s: int = 30 * 86_400
    #: Whether a renewal may keep its key (RFC 7030 section 4.2.2 calls it renew; with a new key it is rekey).
    allow_key_reuse: bool = True
    #: Whether a holder of an IDevID must ask for the IDevID's own serialNumber, and a renewal keep its serialNumber.
    bind_serial: bool = True
    #: Whether a renewal may ask for other names by ChangeSubjectName (RFC 6402 section 2.8), within the allow-list.
    allow_name_change: bool = False
    #: Other profiles of ours whose holders may ask for this one, keeping their subject.
    from_profiles: frozenset[str] = frozenset()
    #: Whether a certificate of this profile acts for devices as a registration authority.
    station: bool = False
    #: What a waiting requester is told as Retry-After.
    approval_retry_s: int = 60

    @property
    def key_types(self) -> frozenset[str]:
        return self.profile.key_types

    @property
    def subject_wanted(self) -> frozenset[str]:
        """Subject attributes that the allow-list needs in a request, by short name."""
        return frozenset((self.allow.values.keys() | self.allow.patterns.keys()) & _ATTRIBUTES.keys())


@dataclass(frozen=True, slots=True)
class Policy:
    """One version of all rules. ``digest`` is SHA-256 of the bytes it was read from; ``expires_ms`` 0 means never."""

    version: int
    rules: Mapping[str, ProfileRule]
    digest: bytes
    expires_ms: int = 0
    clock_doubt: ClockDoubt = ClockDoubt.MARK
    clock_tolerance_ms: int = 300_000
    #: SHA-256 of SubjectPublicKeyInfos that never get a certificate again.
    blocked_keys: frozenset[bytes] = frozenset()

    def rule(self, profile: str) -> ProfileRule:
        """Raises NotFound."""
        try:
            return self.rules[profile]
        except KeyError:
            raise NotFound(f"there is no profile {profile[:80]!r} here") from None


@dataclass(frozen=True, slots=True)
class Allow:
    rule: ProfileRule
    leniencies: tuple[str, ...] = ()  # switches without which the answer would have been no


@dataclass(frozen=True, slots=True)
class NeedsApproval:
    """All is well, and a person must say so."""

    rule: ProfileRule
    leniencies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deny:
    error: RequestError


Decision: TypeAlias = Allow | NeedsApproval | Deny


def decide(policy: Policy, request: EnrollmentRequest, *, now_ms: int, key_follows: bool = False) -> Decision:
    """Whether ``request`` may have its certificate. Never raises a RequestError: that is what Deny carries.

    ``key_follows``: the gateway will make the key, so the one in the CSR is not looked at.
    """
    try:
        rule = policy.rule(request.profile)
        check_standing(policy, request.requester)
        if key_follows:
            request = replace(request, csr=replace(request.csr, spki=b""))  # equal to no key that must not be used again
        else:
            _check_key(policy, rule, request.csr)
        if request.requester.kind is RequesterKind.GATEWAY:
            return Allow(rule, request.csr.leniencies)
        leniencies = list(request.csr.leniencies)
        _check_policy_time(policy, now_ms)
        _check_kind(rule, request)
        _check_purpose(request)
        if _is_renewal(request):
            leniencies += _check_renewal(rule, request, now_ms)
        else:
            _check_holder(rule, request, now_ms)
        _check_token(request)
        rule.allow.check(request.csr)
    except RequestError as error:
        return Deny(error)
    if rule.approval and request.requester.kind is not RequesterKind.OPERATOR and not _is_renewal(request):
        return NeedsApproval(rule, tuple(leniencies))
    return Allow(rule, tuple(leniencies))


def check_standing(policy: Policy, requester: Requester, spki: bytes = b"") -> None:
    """What counts before everything else, also before an answer that was given once: a certificate that entitles to nothing
    any more, and blocked keys, the requester's (Forbidden) and that of the request, ``spki`` (BadKey)."""
    if requester.objection:
        raise Forbidden(requester.objection)
    if not policy.blocked_keys:
        return
    if requester.holder is not None and hashlib.sha256(requester.holder.spki).digest() in policy.blocked_keys:
        raise Forbidden("the key of the requester's certificate is blocked")
    if hashlib.sha256(spki).digest() in policy.blocked_keys:
        raise BadKey("this public key is on the list of blocked keys; generate a new one")


def _check_key(policy: Policy, rule: ProfileRule, csr: CertificationRequest) -> None:
    blocked = policy.blocked_keys.__contains__ if policy.blocked_keys else None
    check_key(csr.public_key, csr.spki, rule.key_types, leniency=rule.leniency, blocked=blocked)


def _check_policy_time(policy: Policy, now_ms: int) -> None:
    if policy.expires_ms and now_ms >= policy.expires_ms:
        raise Forbidden(f"version {policy.version} of the policy has expired; the gateway needs a newer one")


def _check_kind(rule: ProfileRule, request: EnrollmentRequest) -> None:
    kind = request.requester.kind
    if kind is RequesterKind.STATION and RequesterKind.OWN in rule.requesters and _is_renewal(request):
        return  # with its own certificate it is a holder like everybody else
    if kind not in rule.requesters:
        raise Forbidden(f"profile {rule.profile.name} is not given to requesters of type {kind.value}")
    if request.operation is Operation.REENROLL and kind in (RequesterKind.IDEVID, RequesterKind.TOKEN):
        raise Forbidden("re-enrolment is asked for with the certificate that is being renewed; use simpleenroll instead")


def _check_purpose(request: EnrollmentRequest) -> None:
    """RFC 7030 section 4.2.2 lets the current certificate ask for its successor. One that is none of a TLS client, such as a
    web server's, is taken for exactly that: the same profile, the same names."""
    holder = request.requester.holder
    if holder is None or not holder.renews_only:
        return
    if request.operation is not Operation.REENROLL or not _is_renewal(request) or request.renamed_from is not None:
        raise Forbidden(
            "the requester's certificate is none of a TLS client (extKeyUsage): simplereenroll renews it as it is, no more"
        )


def _is_renewal(request: EnrollmentRequest) -> bool:
    """The holder of a certificate of ours asks for its own profile again, over whichever operation it came.

    A station that asks for a *device's* certificate is none; one that asks for its own is.
    """
    holder = request.requester.holder
    return (
        request.requester.kind in (RequesterKind.OWN, RequesterKind.STATION)
        and holder is not None
        and holder.profile == request.profile
    )


def _check_renewal(rule: ProfileRule, request: EnrollmentRequest, now_ms: int) -> list[str]:
    """RFC 7030 section 4.2.2: subject and subjectAltName are those of the current certificate. Returns the switches used."""
    holder = _holder(request.requester)
    leniencies = []
    if now_ms > holder.not_after_ms:
        if RENEW_AFTER_EXPIRY not in rule.leniency:
            raise Forbidden("the certificate to be renewed has expired")
        if now_ms > holder.not_after_ms + rule.renew_grace_s * 1000:
            raise Forbidden("the certificate to be renewed expired too long ago")
        leniencies.append(RENEW_AFTER_EXPIRY)
    if not rule.allow_key_reuse and holder.spki == request.csr.spki:
        raise BadKey("this profile wants a new key with every renewal")
    # Compared is what the new certificate would carry, so names that the profile itself adds need not be asked for again.
    signed = request.renamed_from or request.csr
    subject_differs = certificate_subject(rule.profile, signed) != holder.subject_der
    if subject_differs or frozenset(certificate_names(rule.profile, signed)) != holder.names:
        if REENROLL_SUBJECT_CHANGE not in rule.leniency or holder.renews_only:
            what = "subject" if subject_differs else "subjectAltName"
            raise Forbidden(f"the {what} differs from that of the certificate being renewed (RFC 7030 section 4.2.2)")
        leniencies.append(REENROLL_SUBJECT_CHANGE)
    if request.renamed_from is not None:
        _check_name_change(rule, holder, request.csr)
        leniencies.append(NAME_CHANGE)
    return leniencies


def _check_name_change(rule: ProfileRule, holder: Holder, csr: CertificationRequest) -> None:
    if not rule.allow_name_change:
        raise Forbidden("this profile does not permit a change of names (ChangeSubjectName) at renewal")
    asked = [_text(attribute) for attribute in csr.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)]
    if rule.bind_serial and asked != ([] if holder.device_serial is None else [holder.device_serial]):
        raise Forbidden("a change of names must keep the subject's serialNumber")


def _check_holder(rule: ProfileRule, request: EnrollmentRequest, now_ms: int) -> None:
    """A first certificate, asked for with a certificate: of a maker, of ours with another profile, or of a station."""
    requester = request.requester
    if request.renamed_from is not None:
        raise Forbidden("names are changed (ChangeSubjectName) by the certificate being renewed alone, in simplereenroll")
    if requester.kind is RequesterKind.STATION and requester.holder is None:
        return  # it came with a token
    if requester.kind not in (RequesterKind.IDEVID, RequesterKind.OWN, RequesterKind.STATION):
        return
    holder = _holder(requester)
    if now_ms > holder.not_after_ms:
        raise Forbidden("the certificate of the requester has expired")
    if requester.kind is RequesterKind.STATION:
        return
    if not rule.allow_key_reuse and holder.spki == request.csr.spki:
        raise BadKey("this profile wants another key than that of the requester's certificate")
    if requester.kind is RequesterKind.IDEVID:
        if rule.bind_serial:
            _check_device_serial(holder, request.csr)
        return
    if holder.profile not in rule.from_profiles:
        raise Forbidden(f"a certificate of profile {holder.profile} does not entitle to one of profile {rule.profile.name}")
    if certificate_subject(rule.profile, request.csr) != holder.subject_der:
        raise Forbidden("the subject differs from that of the requester's certificate")


def _check_device_serial(holder: Holder, csr: CertificationRequest) -> None:
    asked = [_text(attribute) for attribute in csr.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)]
    if holder.device_serial is None:
        raise Forbidden("the IDevID has no serialNumber in its subject to bind the new certificate to")
    if asked != [holder.device_serial]:
        raise Forbidden(f"the subject's serialNumber must be that of the IDevID, {holder.device_serial[:80]!r}")


def _check_token(request: EnrollmentRequest) -> None:
    token = request.requester.token
    if token is None:
        if request.requester.kind is RequesterKind.TOKEN:
            raise Unauthenticated("the requester has no token")
        return
    if token.spent:
        raise Unauthenticated("the token was used up")
    if token.profile != request.profile:
        raise Forbidden(f"the token is not for profile {request.profile}")
    if token.subject and not token_names(token, request.csr):
        raise Forbidden("the token is for another subject")


def token_names(token: TokenGrant, csr: CertificationRequest) -> bool:
    """Whether the token's ``subject`` is that of the request: a whole name when it has a ``=``, else a pattern for its one
    serialNumber (its one CN when it has no serialNumber)."""
    if "=" in token.subject:
        try:
            return name_from_text(token.subject) == csr.subject
        except MalformedRequest:
            return False  # written by another version; a token that cannot be understood is good for nothing
    for oid in (NameOID.SERIAL_NUMBER, NameOID.COMMON_NAME):
        found = [_text(attribute) for attribute in csr.subject.get_attributes_for_oid(oid)]
        if found:
            return len(found) == 1 and fnmatch.fnmatchcase(found[0], token.subject)
    return False


def _holder(requester: Requester) -> Holder:
    if requester.holder is None:
        raise Unauthenticated("the requester's certificate was not read")
    return requester.holder


def _text(attribute: x509.NameAttribute[str | bytes]) -> str:
    return attribute.value if isinstance(attribute.value, str) else attribute.value.hex()
