"""What a console asks for: API keys, measured curves, what was sent, and what could be rebuilt."""

from __future__ import annotations

from fastapi import Request

from edge_service.console import sent
from edge_service.deps import (
    GalleryPath,
    GalleryQuery,
    MayAsk,
    MayManage,
    QualityQuery,
    RequestIdPath,
    RuleQuery,
    ServicesDep,
    SubjectQuery,
    picture_body,
)
from edge_service.protection.profiles.files import Profile
from edge_service.services import Services
from edge_service.uploads import read_pictures
from shared.errors import Forbidden, NotFound
from shared.http.auth import Caller
from shared.http.routes import api_router
from shared.security.credentials import ApiKeyRecord, Scope
from shared.wire.common import ScoreRule
from shared.wire.edge_console import RECORD_HEADER, Curves, KnownKey, KnownKeys, OwnKey, Rebuilt, Sent

router = api_router("/v1", "console")
of_galleries = api_router("/v1/galleries/{gallery}", "console")


@router.get("/key", dependencies=[MayAsk])
async def get_key(services: ServicesDep, caller: Caller) -> OwnKey:
    """Get the API key of this request.

    Returns what it may do, and until when. The key itself is not in the answer.
    """
    return _own(services, caller)


@router.get("/keys", dependencies=[MayManage])
async def list_keys(services: ServicesDep, caller: Caller) -> KnownKeys:
    """List API keys.

    Needs a key for all galleries. Revoked keys are listed too, and those of browsers that signed in by a link.
    """
    if caller.galleries is not None:
        raise Forbidden(
            "This API key is for some galleries only, and keys of others are listed here; use one for all galleries.",
            reason="all_galleries_needed",
        )
    records = services.key_ring.all_records()
    return KnownKeys(
        keys=[
            KnownKey(**_own(services, record).model_dump(), created_at=record.created_at, revoked_at=record.revoked_at)
            for record in records
        ]
    )


@router.get("/curves", dependencies=[MayAsk])
async def get_curves(services: ServicesDep, rule: RuleQuery = "mean") -> Curves:
    """Get the measured curves of the edge's profile."""
    return _curves(services, services.profile, rule)


@of_galleries.get("/curves", dependencies=[MayAsk])
async def get_gallery_curves(gallery: GalleryPath, services: ServicesDep) -> Curves:
    """Get the measured curves of a gallery.

    They are of its profile, by the rule that it compares subjects with.
    """
    context = await services.galleries.context(gallery)
    return _curves(services, context.protector.profile, context.score.rule)


@router.get("/sent/{request_id}", dependencies=[MayAsk])
async def get_sent(request_id: RequestIdPath, services: ServicesDep, caller: Caller) -> Sent:
    """Get what was sent to the cloud for a request.

    Of a request of the same API key that carried `X-Patronus-Record: 1`, for a minute. The numbers of templates are
    shown to keys with the scope manage; others see their length and digest.
    """
    if not services.settings.record_sent:
        raise Forbidden(
            "This edge does not record what it sends; its operator can set PATRONUS_EDGE__RECORD_SENT=true.",
            reason="recording_off",
        )
    recording = services.recorder.found(caller.id, request_id)
    if recording is None:
        raise NotFound(
            f"Nothing is recorded under this id for this API key: send the request with {RECORD_HEADER}: 1, and ask "
            "within a minute and before many others.",
            reason="not_recorded",
        )
    return sent.shown(request_id, recording, numbers=Scope.MANAGE in caller.scopes)


@router.post("/rebuild", dependencies=[MayManage], openapi_extra=picture_body())
async def rebuild_face(
    request: Request,
    services: ServicesDep,
    caller: Caller,
    gallery: GalleryQuery = None,
    subject: SubjectQuery = None,
    quality_filter: QualityQuery = None,
) -> Rebuilt:
    """Rebuild a face from its template.

    Shows what a thief would see: the face rebuilt from the unprotected embedding, and from the template with and
    without the gallery's key. Needs a decoder beside the profile; 404 `no_decoder` without one. Sends nothing to the
    cloud.
    """
    if gallery is not None and not caller.may_use(gallery):
        raise NotFound("There is no gallery of this name.", reason="unknown_gallery")
    [picture] = await read_pictures(request, services.settings.pictures, at_most=1)
    services.rebuilder.check()
    one = await services.recognition.one_face(picture, gallery, subject, quality_filter)
    return await services.workers.run(services.rebuilder.rebuilt, one)


def _curves(services: Services, profile: Profile, rule: ScoreRule) -> Curves:
    default = services.profiles.default_threshold(profile)
    return Curves(
        profile=profile.pin,
        embedder=services.reader.pin,
        default_threshold=None if default is None else default.threshold,
        curves=[curve for curve in profile.document.curves or () if curve.rule == rule],
    )


def _own(services: Services, record: ApiKeyRecord) -> OwnKey:
    return OwnKey(
        id=record.id,
        label=record.label,
        scopes=sorted(record.scopes),
        galleries=None if record.galleries is None else sorted(record.galleries),
        rate=record.rate,
        expires_at=services.key_ring.expires_at(record.id),
    )
