"""Raw embeddings of other recognition systems: protected and handed back, or enrolled.

Both need the scope `manage`. Who may have templates made of embeddings of his own choice learns the seal from as many
pairs as an embedding has values; and an embedding from elsewhere cannot be checked for being one of a good picture.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.status import HTTP_201_CREATED

from edge_service.deps import (
    DimQuery,
    GalleryPath,
    GalleryQuery,
    MayManage,
    PluginDep,
    QualityQuery,
    SettingsDep,
    SubjectPath,
    SubjectQuery,
    picture_body,
)
from edge_service.embedding_bodies import (
    FLOATS,
    JSON,
    as_floats,
    as_json,
    read_body,
    read_embeddings,
    rows_of,
    wants_floats,
)
from edge_service.embeddings import HandedBack
from edge_service.uploads import read_pictures
from shared.errors import Forbidden, NotFound
from shared.http.auth import Caller
from shared.http.headers import media_type
from shared.http.routes import api_router
from shared.security.credentials import ApiKeyRecord
from shared.wire.edge import (
    EnrollEmbeddings,
    EnrollEmbeddingsAnswer,
    FaceInfo,
    ProtectAnswer,
    ProtectRequest,
)

router = api_router("/v1", "embeddings")
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
    plugin: PluginDep,
    settings: SettingsDep,
    caller: Caller,
    gallery: GalleryQuery = None,
    subject: SubjectQuery = None,
    dim: DimQuery = None,
    quality_filter: QualityQuery = None,
) -> ProtectAnswer | Response:
    """Protects a picture's face, or raw embeddings, and hands the templates back. Nothing is sent to the cloud."""
    _may_use(caller, gallery)
    if media_type(request) == "multipart/form-data":
        [picture] = await read_pictures(request, settings.pictures, at_most=1)
        made = await plugin.protect_picture(picture, gallery, quality_filter or settings.quality_filter, subject)
    else:
        raw = await run_in_threadpool(read_embeddings, media_type(request), await read_body(request), dim, plugin.dim)
        made = await plugin.protect(raw, gallery, subject)
    return _floats(made) if wants_floats(request) else await run_in_threadpool(as_json, made)


@router.post(
    "/galleries/{gallery}/subjects/{subject}/embeddings", dependencies=[MayManage], status_code=HTTP_201_CREATED
)
async def enroll(
    gallery: GalleryPath, subject: SubjectPath, wanted: EnrollEmbeddings, plugin: PluginDep
) -> EnrollEmbeddingsAnswer:
    """Enrolls one person from raw embeddings: all of them are stored, or none. Sent twice, they are stored once."""
    raw = rows_of([embedding.values for embedding in wanted.embeddings])
    names = [embedding.face for embedding in wanted.embeddings]
    stored, unperturbed = await plugin.enroll(gallery, subject, raw, names)
    faces = [FaceInfo(id=info.id, created_at=info.created_at) for info in stored]
    return EnrollEmbeddingsAnswer(subject=subject, faces=faces, unperturbed=unperturbed)


def _may_use(caller: ApiKeyRecord, gallery: str | None) -> None:
    if gallery is None:
        if caller.galleries is not None:
            raise Forbidden("This API key is for certain galleries; name one of them: ?gallery=NAME")
    elif not caller.may_use(gallery):
        # The same answer as for a gallery that is not there: a key learns nothing of the others.
        raise NotFound("There is no gallery of this name.", reason="unknown_gallery")


def _floats(made: HandedBack) -> Response:
    headers = {
        "X-Patronus-Dim": str(made.protected.templates.shape[1]),
        "X-Patronus-Unperturbed": str(made.protected.unperturbed),
    }
    if made.faces_found is not None:
        headers["X-Patronus-Faces-Found"] = str(made.faces_found)
    return Response(as_floats(made), media_type=FLOATS, headers=headers)
