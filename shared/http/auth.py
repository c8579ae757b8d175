"""API keys: ``Authorization: Bearer patronus_…``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from shared.errors import Forbidden, KeysUnavailable, NotFound, SetupError, Unauthenticated, place_of
from shared.logs import get_logger
from shared.security.credentials import ApiKeyRecord, Scope
from shared.security.key_ring import KeyRing

_log = get_logger(__name__)

# Where `Authentication` leaves, in the ASGI scope, the record of the request's key.
KEY_RECORD = "patronus.caller"


def authenticate(scope: Mapping[str, Any], header: str | None) -> ApiKeyRecord:
    """The record of the key that a request came with.

    Raises:
        Unauthenticated: no key, or one that is not known or was revoked.
        KeysUnavailable: the file of keys is missing, damaged, or readable by others.
    """
    kind, _, key = (header or "").partition(" ")
    key = key.strip(" \t")
    if kind.lower() != "bearer" or not key:
        raise Unauthenticated("Send an API key in the header `Authorization: Bearer KEY`.")
    ring: KeyRing = scope["app"].state.key_ring
    try:
        record = ring.check(key)
    except SetupError as error:
        _log.error("api_keys_unreadable", **place_of(error))
        raise KeysUnavailable(
            "The service cannot read its file of API keys now; the operator must repair it. Nothing was done."
        ) from None
    if record is None:
        raise Unauthenticated("This API key is not known here, or it was revoked; ask the operator for a new one.")
    return record


class KeyCheck(HTTPBearer):
    """A dependency that returns the record of the caller's key.

    It refuses a key that lacks the scope or the gallery. It is an HTTPBearer so that the OpenAPI document describes the
    header.

    Args:
        scopes: one of these is needed; none: any key will do.
    """

    def __init__(self, *scopes: Scope) -> None:
        super().__init__(
            scheme_name="HTTPBearer", auto_error=False, description="An API key: `Authorization: Bearer patronus_…`"
        )
        self._scopes = scopes

    async def __call__(self, request: Request) -> ApiKeyRecord:  # type: ignore[override]
        """The record of the caller's key.

        Asynchronous: FastAPI would run a plain function in a thread.

        Raises:
            NotFound: the key is not for the gallery of the path.
            Forbidden: the key has none of the scopes.
        """
        record: ApiKeyRecord = request.scope[KEY_RECORD]
        gallery = request.path_params.get("gallery")
        if gallery is not None and not record.may_use(gallery):
            # Whether it exists or not, and whatever is asked of it: a key learns nothing of other galleries.
            raise NotFound("There is no gallery of this name.", reason="unknown_gallery")
        if self._scopes and record.scopes.isdisjoint(self._scopes):
            wanted = " or ".join(sorted(scope.value for scope in self._scopes))
            raise Forbidden(f"This API key lacks the scope for this; use one with the scope {wanted}.")
        return record


Caller = Annotated[ApiKeyRecord, Depends(KeyCheck())]
