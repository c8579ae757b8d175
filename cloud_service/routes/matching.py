"""Verification (1:1) and identification (1:N)."""

from __future__ import annotations

from fastapi import Request

from cloud_service.deps import MAY_MATCH, GalleryInPath, SubjectInPath, services_of
from cloud_service.matching import Verification
from shared.http.rate_limits import count_probes
from shared.http.routes import api_router
from shared.wire.cloud import IdentifyAnswer, IdentifyRequest, VerifyRequest
from shared.wire.common import VerifyAnswer

router = api_router("/v1/galleries/{gallery}", "matching")


@router.post("/subjects/{subject}/verify", response_model=VerifyAnswer, dependencies=[MAY_MATCH])
async def verify_template(
    gallery: GalleryInPath, subject: SubjectInPath, body: VerifyRequest, request: Request
) -> VerifyAnswer:
    """Verify a template (1:1).

    Decides whether a probe is this subject's, by the score of the gallery's rule.
    """
    return await services_of(request).verifications.submit(gallery, Verification(subject, body.probe))


@router.post("/identify", response_model=IdentifyAnswer, dependencies=[MAY_MATCH])
async def identify_templates(gallery: GalleryInPath, body: IdentifyRequest, request: Request) -> IdentifyAnswer:
    """Identify templates (1:N).

    Searches the gallery for each probe; `unknown` where no subject reaches the threshold.
    """
    count_probes(request, len(body.probes))
    return await services_of(request).identifications.submit(gallery, body)
