"""API keys at the door: ``Authorization: Bearer patronus_…``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from shared.credentials import ApiKeyRecord, Scope
from shared.errors import Forbidden, NotFound, Unauthenticated
from shared.key_ring import KeyRing

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer patronus_…`")


def require_key(scope: Mapping[str, Any], header: str | None) -> None:
    """Makes sure, before anything of a request is read, that it comes with a key that is known.

    Raises:
        Unauthenticated: no key, or one that is not known or was revoked.
    """
    kind, _, key = (header or "").partition(" ")
    _known(scope["app"].state.key_ring, key.strip() if kind.lower() == "bearer" else None)


def _known(ring: KeyRing, key: str | None) -> ApiKeyRecord:
    if not key:
        raise Unauthenticated("Send an API key in the header `Authorization: Bearer KEY`.")
    record = ring.check(key)
    if record is None:
        raise Unauthenticated("This API key is not known here, or it was revoked; ask the operator for a new one.")
    return record


async def caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> ApiKeyRecord:
    """Who calls.

    Raises:
        Unauthenticated: no key, or one that is not known or was revoked.
        NotFound: the key is not for the gallery of the path; Forbidden where that is to be made.
    """
    record = _known(request.app.state.key_ring, credentials.credentials if credentials else None)
    gallery = request.path_params.get("gallery")
    if gallery is not None and not record.may_use(gallery):
        if request.method == "PUT":  # which tells nothing of whether it exists
            raise Forbidden("This API key is not for a gallery of this name; use one that is for it, or for all.")
        # The same answer as for a gallery that is not there: a key learns nothing of the others.
        raise NotFound("There is no gallery of this name.", reason="unknown_gallery")
    return record


Caller = Annotated[ApiKeyRecord, Depends(caller)]


def require(*scopes: Scope) -> Callable[[ApiKeyRecord], Awaitable[ApiKeyRecord]]:
    """A dependency that lets a caller in who has one of the scopes.

    Raises:
        Forbidden: (the dependency) the key has none of them.
    """

    async def check(record: Caller) -> ApiKeyRecord:
        if record.scopes.isdisjoint(scopes):
            wanted = " or ".join(sorted(scope.value for scope in scopes))
            raise Forbidden(f"This API key lacks the scope for this; use one with the scope {wanted}.")
        return record

    return check
