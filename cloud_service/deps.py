"""What handlers ask for, by name.

All of it is asynchronous, though nothing waits: FastAPI runs what is not in a thread, once for each of them a request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Path, Query, Request

from cloud_service.batching import RequestBatcher
from cloud_service.concurrency_limit import ConcurrencyLimit
from cloud_service.erasure.receipts import Erasures
from cloud_service.matching import Asked, Claim
from cloud_service.record.listing import Listing
from cloud_service.rekey.service import Rekeying
from cloud_service.settings import Settings
from cloud_service.store import Store
from shared.http.auth import require
from shared.names import GalleryName, SubjectName, TemplateId
from shared.security.credentials import Scope
from shared.strict_types import PLAIN_DIGITS
from shared.wire.cloud import IdentifyAnswer
from shared.wire.common import NumberInText, VerifyAnswer


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def verifications_of(request: Request) -> RequestBatcher[Claim, VerifyAnswer]:
    """What answers verifications. Called by the one route whose cost is mostly FastAPI's: a dependency adds to it."""
    gathering: RequestBatcher[Claim, VerifyAnswer] = request.app.state.verifications
    return gathering


async def _identifications(request: Request) -> RequestBatcher[Asked, IdentifyAnswer]:
    gathering: RequestBatcher[Asked, IdentifyAnswer] = request.app.state.identifications
    return gathering


async def _listing(request: Request) -> Listing:
    listing: Listing = request.app.state.listing
    return listing


async def _erasures(request: Request) -> Erasures:
    erasures: Erasures = request.app.state.erasures
    return erasures


async def _rekeying(request: Request) -> Rekeying:
    rekeying: Rekeying = request.app.state.rekeying
    return rekeying


async def _place(request: Request) -> AsyncIterator[None]:
    admission: ConcurrencyLimit = request.app.state.admission
    async with admission.place():
        yield


SettingsDep = Annotated[Settings, Depends(_settings)]
StoreDep = Annotated[Store, Depends(_store)]
IdentificationsDep = Annotated[RequestBatcher[Asked, IdentifyAnswer], Depends(_identifications)]
RekeyingDep = Annotated[Rekeying, Depends(_rekeying)]
ListingDep = Annotated[Listing, Depends(_listing)]
ErasuresDep = Annotated[Erasures, Depends(_erasures)]

# For a route's `dependencies`, before the place: what the key must be allowed.
MAY_MANAGE = Depends(require(Scope.MANAGE))
MAY_ENROLL = Depends(require(Scope.ENROLL))
MAY_MATCH = Depends(require(Scope.MATCH))
MAY_ENROLL_OR_MANAGE = Depends(require(Scope.ENROLL, Scope.MANAGE))
MAY_ANYTHING = Depends(require(*Scope))
# Given back when the handler is done, not when a slow caller has read the answer.
PLACE = Depends(_place, scope="function")

GalleryInPath = Annotated[GalleryName, Path(alias="gallery")]
SubjectInPath = Annotated[SubjectName, Path(alias="subject")]
TemplateInPath = Annotated[TemplateId, Path(alias="template")]
Limit = Annotated[int, Query(ge=1, le=500, description="the most items on one page"), PLAIN_DIGITS]
AfterGallery = Annotated[GalleryName | None, Query(description="`next` of the page before")]
ReceiptInPath = Annotated[NumberInText, Path(alias="receipt")]
AfterEntry = Annotated[NumberInText, Query(description="`next` of the page before; 0: from the first entry on")]
AfterSubject = Annotated[SubjectName | None, Query(description="`next` of the page before")]
