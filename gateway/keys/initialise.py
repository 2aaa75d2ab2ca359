"""Preparing a new token for the ceremony: label, SO PIN and user PIN. Everything that was on it is lost."""

from __future__ import annotations

from gateway.errors import ConfigError
from gateway.keys.frames import InitialiseQuery, Kind, TokenInfo, to_json, token_info
from gateway.keys.keeper import CHILD_MODULE
from gateway.keys.pin import check_pin
from gateway.keys.process import ChildProcess

_DEADLINE_S = 120.0


async def initialise_token(module: str, slot_id: int, label: str, *, so_pin: str, pin: str) -> TokenInfo:
    """C_InitToken and C_InitPIN in a child of their own; the PINs stand in no argument list or environment.

    ``module`` is the path of the PKCS #11 module. Raises ChildFailure (SignerUnavailable) when the token refuses.
    """
    for secret in (so_pin, pin):
        check_pin(secret)
        if not secret:
            raise ConfigError("a PIN is missing")
    child = await ChildProcess.spawn(CHILD_MODULE)
    try:
        query = InitialiseQuery(module, slot_id, label, so_pin, pin)
        return token_info(await child.call(Kind.INITIALISE, to_json(query), deadline_s=_DEADLINE_S))
    finally:
        await child.end("the token is initialised")
