"""What handlers are given. They build nothing themselves.

All of it is asynchronous, though nothing waits: FastAPI runs what is not in a thread, once for each of them a request.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Request
from pydantic import Field

from edge_service.cloud_client import CloudClient
from edge_service.embeddings import Plugin
from edge_service.gallery_contexts import GalleryContexts
from edge_service.protection.profiles import DefaultThreshold, Profile
from edge_service.recognition import Recognition
from edge_service.rekey import Rekeying
from edge_service.settings import EdgeSettings
from edge_service.uploads import PART
from edge_service.vision.reader import FaceReader
from shared.http.auth import require
from shared.names import GalleryName, SubjectName, TemplateId
from shared.security.credentials import Scope
from shared.strict_types import PLAIN_DIGITS
from shared.wire.cloud import MAX_TOP_K
from shared.wire.common import NumberInText
from shared.wire.edge import MAX_FACES, QualityFilter

# More is no dimension of any embedding: a number that is told with the one that is wanted.
_MOST_DIM = 2**31 - 1


async def _settings(request: Request) -> EdgeSettings:
    found: EdgeSettings = request.app.state.settings
    return found


async def _recognition(request: Request) -> Recognition:
    found: Recognition = request.app.state.recognition
    return found


async def _galleries(request: Request) -> GalleryContexts:
    found: GalleryContexts = request.app.state.galleries
    return found


async def _cloud(request: Request) -> CloudClient:
    found: CloudClient = request.app.state.cloud
    return found


async def _plugin(request: Request) -> Plugin:
    found: Plugin = request.app.state.plugin
    return found


async def _rekeying(request: Request) -> Rekeying:
    found: Rekeying = request.app.state.rekeying
    return found


async def _reader(request: Request) -> FaceReader:
    found: FaceReader = request.app.state.reader
    return found


async def _default_threshold(request: Request) -> DefaultThreshold:
    """Of comparisons, and of galleries that are made without one."""
    profile: Profile = request.app.state.profile
    return profile.default_threshold((await _reader(request)).spec.threshold)


SettingsDep = Annotated[EdgeSettings, Depends(_settings)]
RecognitionDep = Annotated[Recognition, Depends(_recognition)]
GalleriesDep = Annotated[GalleryContexts, Depends(_galleries)]
CloudDep = Annotated[CloudClient, Depends(_cloud)]
RekeyingDep = Annotated[Rekeying, Depends(_rekeying)]
PluginDep = Annotated[Plugin, Depends(_plugin)]
ReaderDep = Annotated[FaceReader, Depends(_reader)]
ThresholdDep = Annotated[DefaultThreshold, Depends(_default_threshold)]

MayEnroll = Depends(require(Scope.ENROLL))
MayMatch = Depends(require(Scope.MATCH))
MayManage = Depends(require(Scope.MANAGE))
MayErase = Depends(require(Scope.ENROLL, Scope.MANAGE))
MayAsk = Depends(require(*Scope))

GalleryPath = Annotated[GalleryName, Path(description="name of the gallery")]
SubjectPath = Annotated[SubjectName, Path(description="name of the subject; a pseudonym is better than a name")]
FacePath = Annotated[TemplateId, Path(description="id that enrolling the picture answered")]
ReceiptPath = Annotated[NumberInText, Path(description="id of the receipt that an erasure was answered with")]
LimitQuery = Annotated[int, Query(ge=1, le=500, description="items a page"), PLAIN_DIGITS]
AfterGalleryQuery = Annotated[GalleryName | None, Query(description="the last page's `next`")]
AfterSubjectQuery = Annotated[SubjectName | None, Query(description="the last page's `next`")]
TopKQuery = Annotated[int, Query(ge=1, le=MAX_TOP_K, description="candidates a face, at most"), PLAIN_DIGITS]
MaxFacesQuery = Annotated[int, Query(ge=1, le=MAX_FACES, description="faces to look for, largest first"), PLAIN_DIGITS]
QualityQuery = Annotated[
    QualityFilter | None, Query(description="what a face must be good enough for; absent: as the edge is set")
]
GalleryQuery = Annotated[GalleryName | None, Query(description="whose key seeds and seals; needed where one seals")]
SubjectQuery = Annotated[
    SubjectName | None, Query(description="whose templates; needed where the gallery is verify-only")
]
DimQuery = Annotated[
    Annotated[int, Field(ge=1, le=_MOST_DIM), PLAIN_DIGITS] | None,
    Query(description="values an embedding, for a body of float32"),
]


def picture_body(at_least: int = 1, at_most: int = 1) -> dict[str, object]:
    """The OpenAPI description of a body that is read while it streams in."""
    parts: dict[str, object] = {"type": "string", "format": "binary", "description": "a JPEG, PNG or WebP file"}
    field: dict[str, object] = (
        parts if at_most == 1 else {"type": "array", "items": parts, "minItems": at_least, "maxItems": at_most}
    )
    schema = {"type": "object", "required": [PART], "properties": {PART: field}, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
