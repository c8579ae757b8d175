"""What handlers declare: services, scopes, a slot, and names in paths and queries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request
from pydantic.json_schema import SkipJsonSchema

from cloud_service.services import Services
from shared.http.auth import KeyCheck
from shared.names import GalleryName, HexDigest, StoredName, TemplateId
from shared.security.credentials import Scope
from shared.strict_types import PLAIN_DIGITS
from shared.wire.cloud import CONTRACT_HEADER, MAX_NAMES_A_PAGE
from shared.wire.common import NumberInText


def services_of(request: Request) -> Services:
    """The services, without the cost of a dependency: verification calls this directly."""
    services: Services = request.app.state.services
    return services


# Dependencies are asynchronous, though nothing waits: FastAPI runs the others in a thread each.
async def _services(request: Request) -> Services:
    return services_of(request)


async def _slot(request: Request) -> AsyncIterator[None]:
    async with services_of(request).concurrency.slot():
        yield


ServicesDep = Annotated[Services, Depends(_services)]

# For a route's `dependencies`, before the slot: the scopes of which the key must have one.
MAY_MANAGE = Depends(KeyCheck(Scope.MANAGE))
MAY_ENROLL = Depends(KeyCheck(Scope.ENROLL))
MAY_MATCH = Depends(KeyCheck(Scope.MATCH))
MAY_ENROLL_OR_MANAGE = Depends(KeyCheck(Scope.ENROLL, Scope.MANAGE))
MAY_ANYTHING = Depends(KeyCheck(*Scope))
# Released when the handler is done, not when a slow caller has read the answer.
SLOT = Depends(_slot, scope="function")

GalleryInPath = Annotated[GalleryName, Path(alias="gallery", description="name of the gallery")]
SubjectInPath = Annotated[
    StoredName, Path(alias="subject", description="name of the subject, sealed where the gallery's names are")
]
ContractInHeader = Annotated[
    HexDigest | SkipJsonSchema[None],  # a header is absent, and never null
    Header(
        alias=CONTRACT_HEADER,
        description="digest of the contract under whose key the names were sealed; if the gallery has another one, "
        "that is answered (409) and nothing is looked up",
    ),
]
TemplateInPath = Annotated[TemplateId, Path(alias="template", description="id of the template")]
ReceiptInPath = Annotated[NumberInText, Path(alias="receipt", description="id of the erasure's receipt")]
Limit = Annotated[int, Query(ge=1, le=500, description="most items on a page"), PLAIN_DIGITS]
AfterGallery = Annotated[GalleryName | None, Query(description="`next` of the previous page")]
Since = Annotated[NumberInText | None, Query(description="`version` of the list that you have; absent: all subjects")]
AfterSubject = Annotated[NumberInText, Query(description="`next` of the previous page; 0: the first page")]
NamesLimit = Annotated[int, Query(ge=1, le=MAX_NAMES_A_PAGE, description="most items on a page"), PLAIN_DIGITS]
AfterEntry = Annotated[NumberInText, Query(description="`next` of the previous page; 0: from the first entry")]
