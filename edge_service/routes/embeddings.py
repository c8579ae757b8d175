"""Raw embeddings of other recognition systems: protected and returned, or enrolled.

Both need the scope `manage`. A caller that can choose embeddings and see their templates learns the seal from as many
pairs as an embedding has values. And the quality of the picture behind an embedding cannot be checked.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.status import HTTP_201_CREATED

from edge_service.deps import (
    DimQuery,
    GalleryPath,
    GalleryQuery,
    MayManage,
    QualityQuery,
    ServicesDep,
    SubjectPath,
    SubjectQuery,
    picture_body,
)
from edge_service.embeddings import (
    FLOATS,
    JSON,
    as_floats,
    as_json,
    read_body,
    read_embeddings,
    rows_of,
    wants_floats,
)
from edge_service.recognition import ProtectResult
from edge_service.uploads import read_pictures
from shared.errors import Forbidden, NotFound
from shared.http.auth import Caller
from shared.http.headers import media_type
from shared.http.problems import RESPONSES
from shared.security.credentials import ApiKeyRecord
from shared.wire.edge import (
    EnrollEmbeddings,
    EnrollEmbeddingsAnswer,
    ProtectAnswer,
    ProtectRequest,
    StoredFace,
)

router = APIRouter(prefix="/v1", tags=["embeddings"], responses=RESPONSES)
_BINARY: Final = {"type": "string", "format": "binary"}


def _protect_body() -> dict[str, Any]:
    described: dict[str, Any] = picture_body()
    described["requestBody"]["content"] |= {
        JSON: {"schema": ProtectRequest.model_json_schema()},
        FLOATS: {"schema": _BINARY | {"description": "little-endian float32, row after row"}},
    }
    return described


@router.post(
    "/protect",
    dependencies=[MayManage],
    response_model=ProtectAnswer,
    responses={200: {"content": {FLOATS: {"schema": _BINARY}}}},
    openapi_extra=_protect_body(),
)
async def protect(
    request: Request,
    services: ServicesDep,
    caller: Caller,
    gallery: GalleryQuery = None,
    subject: SubjectQuery = None,
    dim: DimQuery = None,
    quality_filter: QualityQuery = None,
) -> ProtectAnswer | Response:
    """Protects a picture's face, or raw embeddings, and returns the templates. Nothing is sent to the cloud."""
    _may_use(caller, gallery)
    if media_type(request) == "multipart/form-data":
        [picture] = await read_pictures(request, services.settings.pictures, at_most=1)
        result = await services.recognition.protect(picture, gallery, subject, quality_filter)
    else:
        body, wanted = await read_body(request), services.reader.spec.dim
        raw = await run_in_threadpool(read_embeddings, media_type(request), body, dim, wanted)
        result = await services.recognition.protect(raw, gallery, subject, None)
    return _floats(result) if wants_floats(request) else await run_in_threadpool(as_json, result, services.profile.pin)


@router.post(
    "/galleries/{gallery}/subjects/{subject}/embeddings", dependencies=[MayManage], status_code=HTTP_201_CREATED
)
async def enroll(
    gallery: GalleryPath, subject: SubjectPath, wanted: EnrollEmbeddings, services: ServicesDep
) -> EnrollEmbeddingsAnswer:
    """Enrolls one person from raw embeddings: all or none. The same embedding sent again is stored once."""
    raw = rows_of([embedding.values for embedding in wanted.embeddings])
    names = [embedding.face for embedding in wanted.embeddings]
    enrolled = await services.recognition.enroll_embeddings(gallery, subject, raw, names)
    faces = [StoredFace(**info.model_dump()) for info in enrolled.templates]
    return EnrollEmbeddingsAnswer(subject=subject, faces=faces, unperturbed=enrolled.unperturbed)


def _may_use(caller: ApiKeyRecord, gallery: str | None) -> None:
    if gallery is None:
        if caller.galleries is not None:
            raise Forbidden("This API key is for certain galleries; name one of them: ?gallery=NAME")
    elif not caller.may_use(gallery):
        # The same answer as for a missing gallery: a key learns nothing of other galleries.
        raise NotFound("There is no gallery of this name.", reason="unknown_gallery")


def _floats(result: ProtectResult) -> Response:
    headers = {
        "X-Patronus-Dim": str(result.protected.templates.shape[1]),
        "X-Patronus-Unperturbed": str(result.protected.unperturbed),
    }
    if result.faces_found is not None:
        headers["X-Patronus-Faces-Found"] = str(result.faces_found)
    return Response(as_floats(result), media_type=FLOATS, headers=headers)
