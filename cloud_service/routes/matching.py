"""Verification (1:1) and identification (1:N)."""

from __future__ import annotations

from fastapi import Request

from cloud_service.deps import MAY_MATCH, GalleryInPath, IdentificationsDep, SubjectInPath, verifications_of
from cloud_service.matching import Asked, Claim
from shared.http.rate_limits import count_probes
from shared.http.routes import api_router
from shared.wire.cloud import IdentifyAnswer, IdentifyRequest, VerifyRequest
from shared.wire.common import VerifyAnswer

router = api_router("/v1/galleries/{gallery}", "matching")


@router.post("/subjects/{subject}/verify", response_model=VerifyAnswer, dependencies=[MAY_MATCH])
async def verify(
    gallery: GalleryInPath, subject: SubjectInPath, claim: VerifyRequest, request: Request
) -> VerifyAnswer:
    """Whether a probe is this subject, by the best of the subject's templates."""
    return await verifications_of(request).ask(gallery, Claim(subject, claim.probe))


@router.post("/identify", response_model=IdentifyAnswer, dependencies=[MAY_MATCH])
async def identify(
    gallery: GalleryInPath, asked: IdentifyRequest, identifications: IdentificationsDep, request: Request
) -> IdentifyAnswer:
    """Who of the gallery each probe is; `unknown` where no subject reaches the threshold."""
    count_probes(request, len(asked.probes))
    return await identifications.ask(gallery, Asked(asked.probes, asked.top_k))
