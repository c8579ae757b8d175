"""Verification (1:1) and identification (1:N)."""

from __future__ import annotations

from fastapi import APIRouter

from cloud_service.deps import MAY_MATCH, PLACE, GalleryInPath, GatheringDep, MatcherDep, SubjectInPath
from shared.wire.cloud import IdentifyAnswer, IdentifyRequest, VerifyRequest
from shared.wire.common import VerifyAnswer

router = APIRouter(prefix="/galleries/{gallery}", tags=["matching"])


@router.post("/subjects/{subject}/verify", response_model=VerifyAnswer, dependencies=[MAY_MATCH, PLACE])
def verify(gallery: GalleryInPath, subject: SubjectInPath, request: VerifyRequest, matcher: MatcherDep) -> VerifyAnswer:
    """Whether a probe is this subject, by the best of the subject's templates."""
    return matcher.verify(gallery, subject, request.probe)


@router.post("/identify", response_model=IdentifyAnswer, dependencies=[MAY_MATCH])
async def identify(gallery: GalleryInPath, request: IdentifyRequest, gathering: GatheringDep) -> IdentifyAnswer:
    """Who of the gallery each probe is; `unknown` where no subject reaches the threshold."""
    return await gathering.identify(gallery, request.probes, request.top_k)
