"""The exception tree, and what each error means on every wire.

::

    GatewayError
    ├── RequestError            the requester's fault; nothing was changed; asking again unchanged will not help
    │   ├── MalformedRequest        the bytes are not what the protocol says they are
    │   ├── TooLarge                a size limit was exceeded
    │   ├── UnsupportedMediaType    another content type or encoding was expected
    │   ├── BadProofOfPossession    the CSR's self-signature does not verify
    │   ├── BadKey                  the key's type, size or value is not accepted
    │   ├── Unauthenticated         we do not know who asks
    │   ├── Forbidden               we know who asks, and policy says no
    │   │   └── QuotaExhausted          ... because what central granted is used up
    │   ├── NotFound                no such label, certificate, record
    │   ├── Conflict                contradicts what is already recorded
    │   └── NotImplementedByGateway an optional protocol feature we answer honestly
    ├── Unavailable             our fault or state; the same request may succeed later (has ``retry_after``)
    │   ├── Busy                    a lane's queue is full
    │   ├── SignerUnavailable       the key's token is unplugged, hung, locked or waits for its PIN
    │   ├── NotReady                there is no active CA yet
    │   ├── JournalFull             the disk is too full to issue (revoking still works)
    │   ├── JournalFailed           an I/O error was seen: nothing is issued until a restart has verified everything
    │   └── Fenced                  this journal is older than its own anchor, or central said stop
    ├── OperatorError           a command or the configuration cannot be carried out as given
    │   ├── ConfigError
    │   ├── AlreadyExists           refusing to overwrite
    │   └── PinError                wrong, missing or blocked PIN
    ├── DeviceFault             a device on the line, or its port, does not do what it should; it stays in that port
    │   ├── PortLost                the cable, the adapter or the connection is gone
    │   ├── DeviceSilent            no answer in time, or no end to what it says
    │   ├── DeviceRefused           it answers that it cannot
    │   └── WrongDevice             it is not the one that this unit began with, or its key is not
    └── IntegrityError          stored evidence contradicts itself

Only an endpoint turns an error into bytes; it does so by the class attributes here, so every protocol says the same thing
about the same fault. ``str(error)`` is safe to show to the requester and never holds a secret; the cause (``__cause__``) is
for the log. ``hint`` is one sentence for a human on what to do.
"""

from __future__ import annotations

from typing import ClassVar


class GatewayError(Exception):
    """Root of the tree. ``str()`` is the text for the requester."""

    http_status: ClassVar[int] = 500
    #: RFC 8894 section 3.2.1.4.4 failInfo: badAlg 0, badMessageCheck 1, badRequest 2, badTime 3, badCertId 4.
    scep_fail_info: ClassVar[int] = 2
    #: RFC 9810 (RFC 4210) PKIFailureInfo bit number.
    pki_failure_info: ClassVar[int] = 25  # systemFailure
    #: OPC UA Part 6 Annex A.2 symbolic status code.
    opcua_status: ClassVar[str] = "BadInternalError"
    hint: ClassVar[str] = "See the gateway's log."


class RequestError(GatewayError):
    http_status = 400
    pki_failure_info = 2  # badRequest
    opcua_status = "BadInvalidArgument"
    hint = "Correct the request; sending it again unchanged will give the same answer."


class MalformedRequest(RequestError):
    pki_failure_info = 5  # badDataFormat


class TooLarge(RequestError):
    http_status = 413
    pki_failure_info = 5  # badDataFormat
    opcua_status = "BadEncodingLimitsExceeded"
    hint = "Send a smaller request."


class UnsupportedMediaType(RequestError):
    http_status = 415
    pki_failure_info = 5  # badDataFormat


class BadProofOfPossession(RequestError):
    scep_fail_info = 1
    pki_failure_info = 9  # badPOP
    hint = "Sign the request with the private key that belongs to the public key in it."


class BadKey(RequestError):
    scep_fail_info = 0
    pki_failure_info = 0  # badAlg
    hint = "Use a key type and size that the profile lists."


class Unauthenticated(RequestError):
    http_status = 401
    pki_failure_info = 23  # signerNotTrusted
    opcua_status = "BadUserAccessDenied"
    hint = "Present a client certificate of a listed maker, a certificate of this gateway, or a valid one-time token."


class Forbidden(RequestError):
    http_status = 403
    pki_failure_info = 24  # notAuthorized
    opcua_status = "BadUserAccessDenied"
    hint = "Ask the PKI team to allow this device or profile."


class QuotaExhausted(Forbidden):
    hint = "Ask the PKI team to grant more quota for this profile or order."


class NotFound(RequestError):
    http_status = 404
    scep_fail_info = 4
    pki_failure_info = 4  # badCertId
    opcua_status = "BadNotFound"
    hint = "Check the address or the name."


class Conflict(RequestError):
    http_status = 409
    opcua_status = "BadInvalidState"
    hint = "Look at the existing record first."


class NotImplementedByGateway(RequestError):
    http_status = 501
    opcua_status = "BadNotSupported"
    hint = "Use a feature that the gateway lists."


class Unavailable(GatewayError):
    """Nothing is wrong with the request. ``retry_after`` is in seconds."""

    http_status = 503
    opcua_status = "BadNothingToDo"
    hint = "Send the same request again after the time given."

    def __init__(self, message: str, *, retry_after: int = 10) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Busy(Unavailable):
    pass


class SignerUnavailable(Unavailable):
    hint = "Plug in the HSM, or enter its PIN; signing resumes by itself."


class NotReady(Unavailable):
    hint = "Activate the CA: edge-gateway ca status says what is missing."


class JournalFull(Unavailable):
    hint = "Free space on the gateway's disk; revoking still works."


class JournalFailed(Unavailable):
    hint = "Restart the gateway: it verifies its whole journal before it issues again."


class Fenced(Unavailable):
    hint = "This journal issues nothing any more: edge-gateway doctor says why (anchor, central or close) and what to do."


class OperatorError(GatewayError):
    http_status = 409
    hint = "Run the command again with --help."


class ConfigError(OperatorError):
    hint = "Correct the configuration file; config.example.toml explains every key."


class AlreadyExists(OperatorError):
    hint = "Nothing was overwritten. Choose another name or place."


class PinError(OperatorError):
    hint = "Enter the right PIN once; the gateway never tries a PIN twice."


class DeviceFault(GatewayError):
    """``str()`` is a sentence for the technician at the station."""

    http_status = 409
    hint = "Look at the device and its cable, then start the unit again."


class PortLost(DeviceFault):
    hint = "Plug the cable in again; the unit goes on by itself."


class DeviceSilent(DeviceFault):
    hint = "Is the device switched on, and the right cable plugged in? Switch it off and on again."


class DeviceRefused(DeviceFault):
    hint = "Set the device aside: it cannot be provisioned as it is."


class WrongDevice(DeviceFault):
    hint = "Set the device aside and call the supervisor: nothing more is done to it."


class IntegrityError(GatewayError):
    hint = "Keep the disk as evidence and call the PKI team."
