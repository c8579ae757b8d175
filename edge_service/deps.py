"""Dependencies and parameters of the handlers."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal
from unicodedata import normalize

from fastapi import Depends, Header, Path, Query, Request
from pydantic import AfterValidator, Field

from edge_service.services import Services
from edge_service.uploads import FORM, JSON, PART, SEVERAL
from shared.http.auth import Caller, KeyCheck
from shared.http.request_context import current_request_id
from shared.names import MAX_SUBJECT_NAME, GalleryName, QualityFilter, SubjectName, TemplateId
from shared.security.credentials import Scope
from shared.strict_types import PLAIN_DIGITS, TRUE_OR_FALSE
from shared.wire.cloud import MAX_TOP_K
from shared.wire.common import NumberInText, ScoreRule
from shared.wire.edge import MAX_FACES
from shared.wire.edge_console import RECORD_HEADER, RequestId

# No embedding has more dimensions; the refusal names this number beside the right one.
_MOST_DIM = 2**31 - 1


async def _services(request: Request) -> Services:  # FastAPI would run it in a thread if it were not asynchronous
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]

MayEnroll = Depends(KeyCheck(Scope.ENROLL))
MayMatch = Depends(KeyCheck(Scope.MATCH))
MayManage = Depends(KeyCheck(Scope.MANAGE))
MayErase = Depends(KeyCheck(Scope.ENROLL, Scope.MANAGE))
MayAsk = Depends(KeyCheck(*Scope))


async def _record(
    caller: Caller,
    services: ServicesDep,
    asked: Annotated[
        Literal["1"] | None,
        Header(alias=RECORD_HEADER, description="`1`: keep for a minute what is sent to the cloud for this request"),
    ] = None,
) -> None:
    if asked is not None and services.settings.record_sent:
        services.recorder.begin(caller.id, current_request_id())


RecordsSent = Depends(_record)
GalleryPath = Annotated[GalleryName, Path(description="name of the gallery")]
SubjectPath = Annotated[SubjectName, Path(description="name of the subject: 1 to 128 characters of any script")]
FacePath = Annotated[TemplateId, Path(description="id of the face, from the answer to its enrollment")]
ReceiptPath = Annotated[NumberInText, Path(description="id of the receipt, from the answer to the erasure")]
RequestIdPath = Annotated[RequestId, Path(description="`X-Request-ID` of the request that was recorded")]
LimitQuery = Annotated[int, Query(ge=1, le=500, description="most items on a page"), PLAIN_DIGITS]
AfterGalleryQuery = Annotated[GalleryName | None, Query(description="`next` of the previous page")]
AfterSubjectQuery = Annotated[SubjectName | None, Query(description="`next` of the previous page")]
PrefixQuery = Annotated[
    Annotated[str, Field(min_length=1, max_length=MAX_SUBJECT_NAME), AfterValidator(partial(normalize, "NFC"))] | None,
    Query(description="what the names begin with; upper and lower case differ"),
]
DryRunQuery = Annotated[bool, Query(description="true: store nothing, and tell what would be stored"), TRUE_OR_FALSE]
OnConflictQuery = Annotated[
    Literal["store", "refuse"],
    Query(
        description="`refuse`: store nothing if a face is nearer to another subject than to this one, and that one "
        "reaches the threshold; needs the scope match too"
    ),
]
RuleQuery = Annotated[ScoreRule, Query(description="how subjects with several templates are compared")]
TopKQuery = Annotated[int, Query(ge=1, le=MAX_TOP_K, description="most candidates for each face"), PLAIN_DIGITS]
MaxFacesQuery = Annotated[
    int,
    Query(ge=1, le=MAX_FACES, description="most faces to search for, largest first"),
    PLAIN_DIGITS,
]
QualityQuery = Annotated[
    QualityFilter | None, Query(description="least quality that a face must have; absent: the edge's setting")
]
GalleryQuery = Annotated[
    GalleryName | None, Query(description="gallery whose key seals the templates; required if the profile seals")
]
SubjectQuery = Annotated[SubjectName | None, Query(description="subject; required if the gallery is verify-only")]
DimQuery = Annotated[
    Annotated[int, Field(ge=1, le=_MOST_DIM), PLAIN_DIGITS] | None,
    Query(description="number of values in each embedding; required for a body of float32"),
]


def picture_body(at_least: int = 1, at_most: int = 1) -> dict[str, Any]:
    """The OpenAPI description of a body with pictures, which handlers read themselves."""
    kinds = "JPEG, PNG, WebP, AVIF or HEIC"
    part = {"type": "string", "format": "binary", "description": f"a {kinds} file"}
    text = {
        "type": "string",
        "format": "byte",
        "contentEncoding": "base64",
        "description": f"a {kinds} file in standard base64 with padding, or a data URI with it",
    }
    limits = {"minItems": at_least, "maxItems": at_most}
    form = _with_member(PART, part if at_most == 1 else {"type": "array", "items": part, **limits})
    taken = [] if at_least > 1 else [_with_member(PART, text)]
    if at_most > 1:
        taken.append(_with_member(SEVERAL, {"type": "array", "items": text, **limits}))
    json = taken[0] if len(taken) == 1 else {"anyOf": taken}
    return {"requestBody": {"required": True, "content": {FORM: {"schema": form}, JSON: {"schema": json}}}}


def _with_member(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [name], "properties": {name: schema}, "additionalProperties": False}
