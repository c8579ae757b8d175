"""Raw embeddings of other recognition systems: protected and returned, or enrolled.

Both need the scope `manage`. A caller that can choose embeddings and see their templates learns the seal from as many
pairs as an embedding has values. And the quality of the picture behind an embedding cannot be checked.

Plain float32 is little-endian values, row after row, without a header. ``?dim=`` says how many values make a row.
"""

from __future__ import annotations

from functools import partial
from json import JSONDecodeError
from typing import Any, Final, NoReturn

import numpy as np
from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray
from pydantic import ValidationError
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
from edge_service.protection.embeddings import check_dimension
from edge_service.recognition import ProtectResult
from edge_service.routes.answers import another_picture
from edge_service.subjects.enrollment import EnrolledOne, EnrollOptions
from edge_service.subjects.refusals import refuse
from edge_service.uploads import FORM, JSON, is_picture, pictures_in, read_body, read_pictures
from shared.errors import BadRequest, Forbidden, NotFound, TooLarge, Unprocessable
from shared.http.auth import Caller
from shared.http.headers import json_in_utf8, media_type
from shared.http.json_bodies import read_json
from shared.http.problems import MOST_OF_A_PLACE
from shared.http.rate_limits import may_compare
from shared.http.routes import api_router
from shared.security.credentials import ApiKeyRecord
from shared.wire.edge import (
    MAX_EMBEDDINGS_A_REQUEST,
    MAX_EMBEDDINGS_BYTES,
    EnrollEmbeddings,
    EnrollEmbeddingsAnswer,
    ProtectAnswer,
    ProtectRequest,
    StoredFace,
)
from shared.wire.edge_embeddings import EnrollSubjects, EnrollSubjectsAnswer

router = api_router("/v1", "embeddings")
FLOATS: Final = "application/octet-stream"
_VALUE_BYTES: Final = 4
# Of an error in one embedding: ("embeddings", its number).
_LOC_OF_AN_EMBEDDING: Final = 2
_BINARY: Final = {"type": "string", "format": "binary"}


def _protect_body() -> dict[str, Any]:
    described: dict[str, Any] = picture_body()
    content = described["requestBody"]["content"]
    content |= {
        JSON: {"schema": {"anyOf": [ProtectRequest.model_json_schema(), content[JSON]["schema"]]}},
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
    """Protect a face or raw embeddings.

    Returns protected templates. Stores nothing, and sends nothing to the cloud.
    """
    _may_use(caller, gallery)
    kind, limits, recognition = media_type(request), services.settings.pictures, services.recognition
    if kind == FORM:
        [picture] = await read_pictures(request, limits, at_most=1)
        result = await recognition.protect(picture, gallery, subject, quality_filter)
    else:
        if kind == JSON:
            json_in_utf8(request)
        body = await read_body(request)
        if kind == JSON and is_picture(body):
            [picture] = await run_in_threadpool(pictures_in, body, limits, at_most=1)
            result = await recognition.protect(picture, gallery, subject, quality_filter)
        else:
            raw = await run_in_threadpool(_read_embeddings, kind, body, dim, services.reader.spec.dim)
            result = await recognition.protect(raw, gallery, subject, None)
    return _floats(result) if _wants_floats(request) else await run_in_threadpool(_as_json, result)


@router.post(
    "/galleries/{gallery}/subjects/{subject}/embeddings", dependencies=[MayManage], status_code=HTTP_201_CREATED
)
async def enroll_embeddings(
    request: Request, gallery: GalleryPath, subject: SubjectPath, wanted: EnrollEmbeddings, services: ServicesDep
) -> EnrollEmbeddingsAnswer:
    """Enroll a subject from raw embeddings.

    Stores all or none. Equal embeddings of a subject are stored once.
    """
    raw = _rows_of([embedding.values for embedding in wanted.embeddings], services.reader.spec.dim)
    names = [embedding.face for embedding in wanted.embeddings]
    options = EnrollOptions(partial(may_compare, request), sent="embedding")
    enrolled = await services.embeddings.enroll(gallery, subject, raw, names, options)
    return EnrollEmbeddingsAnswer(
        subject=subject,
        faces=_stored(enrolled.faces),
        faces_enrolled=enrolled.total,
        another_picture=another_picture(enrolled),
        unperturbed=enrolled.unperturbed,
    )


@router.post("/galleries/{gallery}/embeddings", dependencies=[MayManage], status_code=HTTP_201_CREATED)
async def enroll_subjects(
    request: Request, gallery: GalleryPath, wanted: EnrollSubjects, services: ServicesDep
) -> EnrollSubjectsAnswer:
    """Enroll many subjects from raw embeddings.

    Stores all or none, in one transaction. Equal embeddings of a subject are stored once.
    """
    vectors = [embedding.values for embedding in wanted.embeddings]
    raw = await run_in_threadpool(_rows_of, vectors, services.reader.spec.dim)
    subjects = [embedding.subject for embedding in wanted.embeddings]
    names = [embedding.face for embedding in wanted.embeddings]
    enrolled, unperturbed = await services.embeddings.enroll_many(
        gallery, subjects, raw, names, partial(may_compare, request)
    )
    return EnrollSubjectsAnswer(faces=_stored(enrolled), unperturbed=unperturbed)


def _stored(faces: list[EnrolledOne]) -> list[StoredFace]:
    return [
        StoredFace(id=face.id, created_at=face.created_at, stored=face.stored, agrees=face.agrees) for face in faces
    ]


def _may_use(caller: ApiKeyRecord, gallery: str | None) -> None:
    if gallery is None:
        if caller.galleries is not None:
            raise Forbidden("This API key is for certain galleries; name one of them: ?gallery=NAME")
    elif not caller.may_use(gallery):
        # The same answer as for a missing gallery: a key learns nothing of other galleries.
        raise NotFound("There is no gallery of this name.", reason="unknown_gallery")


def _rows_of(vectors: list[list[float]], wanted: int) -> NDArray[np.float32]:
    """(n, d) float32 out of lists.

    Args:
        vectors: n lists of d values.
        wanted: values that an embedding must have.

    Raises:
        Unprocessable: they are not of one length; names those that are not of the length that is wanted.
    """
    if len({len(vector) for vector in vectors}) != 1:
        rows = [at for at, vector in enumerate(vectors) if len(vector) != wanted]
        error = Unprocessable(
            f"The embeddings are not of one length: number {rows[0]}, counted from 0, has {len(vectors[rows[0]])} "
            f"values, and {wanted} are wanted; send those of the gallery's embedder.",
            reason="uneven",
        )
        refuse(error, rows, _not_of(wanted))
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        return np.array(vectors, dtype=np.float64).astype(np.float32)


def _refuse_dimension(given: int, wanted: int, rows: list[int]) -> NoReturn:
    try:
        check_dimension(given, wanted)
    except Unprocessable as error:
        refuse(error, rows, _not_of(wanted))
    raise AssertionError("unreachable: no embedder has as many dimensions")


def _not_of(wanted: int) -> str:
    return f"does not have the {wanted} values that are wanted"


def _read_embeddings(kind: str, body: bytearray, dim: int | None, wanted: int) -> NDArray[np.float32]:
    """The embeddings of a body: (n, d) float32, whatever their values.

    Args:
        kind: the media type of the body.
        body: of the request.
        dim: values an embedding, for plain float32.
        wanted: values that an embedding must have.

    Raises:
        TooLarge: over the limit of embeddings.
        BadRequest: neither JSON nor plain float32, or JSON as `read_json` refuses it.
        Unprocessable: not a list of such vectors, not whole rows, another dimension, or more than are taken at once.
    """
    if len(body) > MAX_EMBEDDINGS_BYTES:
        raise TooLarge(
            f"The embeddings are over the limit of {MAX_EMBEDDINGS_BYTES} bytes; send fewer at a time.",
            limit_bytes=MAX_EMBEDDINGS_BYTES,
        )
    if kind == JSON:
        try:
            return _rows_of(ProtectRequest.model_validate(read_json(body)).embeddings, wanted)
        except JSONDecodeError:
            raise Unprocessable('The body is not JSON; send {"embeddings": [[...]]}.', reason="bad_body") from None
        except ValidationError as error:
            errors = error.errors(include_input=False, include_url=False)
            first = errors[0]
            longer = [
                each for each in errors if each["type"] == "too_long" and len(each["loc"]) == _LOC_OF_AN_EMBEDDING
            ]
            if first in longer:
                _refuse_dimension(first["ctx"]["actual_length"], wanted, [int(each["loc"][1]) for each in longer])
            at = ".".join(str(part) for part in first["loc"])[:MOST_OF_A_PLACE] or "body"
            raise Unprocessable(f"The body is not what this takes ({at}: {first['msg']}).", reason="bad_body") from None
    if kind != FLOATS:
        raise BadRequest(
            f"Send a picture as {FORM} or {JSON}, or embeddings as {JSON}, or as {FLOATS} with ?dim=.",
            reason="unknown_body",
        )
    if dim is None:
        raise Unprocessable(f"Say how many values make an embedding: ?dim={wanted}", reason="no_dim")
    check_dimension(dim, wanted)
    if not body or len(body) % (_VALUE_BYTES * dim):
        raise Unprocessable(f"The body is not whole rows of {dim} little-endian float32 values.", reason="uneven")
    rows = np.frombuffer(body, dtype="<f4").astype(np.float32).reshape(-1, dim)
    if len(rows) > MAX_EMBEDDINGS_A_REQUEST:
        raise Unprocessable(f"At most {MAX_EMBEDDINGS_A_REQUEST} embeddings at a time.", reason="too_many")
    return rows


def _wants_floats(request: Request) -> bool:
    """Whether the caller would rather have plain float32 than JSON."""
    return request.headers.get("accept", "").partition(";")[0].strip().lower() == FLOATS


def _as_json(result: ProtectResult) -> ProtectAnswer:
    """Templates as JSON; every float32 value is written with the digits that give it back."""
    return ProtectAnswer(
        profile=result.profile.pin,
        sealed="seal" in result.protected.done,
        contract=result.contract,
        templates=result.protected.templates.tolist(),
        angles=result.protected.angles.tolist(),
        unperturbed=result.protected.unperturbed,
        faces_found=result.faces_found,
    )


def _floats(result: ProtectResult) -> Response:
    """Templates as plain float32: for each its values, then its angle."""
    rows = np.concatenate([result.protected.templates, result.protected.angles[:, None]], axis=1)
    headers = {
        "X-Patronus-Dim": str(result.protected.templates.shape[1]),
        "X-Patronus-Unperturbed": str(result.protected.unperturbed),
    }
    if result.faces_found is not None:
        headers["X-Patronus-Faces-Found"] = str(result.faces_found)
    return Response(np.ascontiguousarray(rows, dtype="<f4").tobytes(), media_type=FLOATS, headers=headers)
