"""Verify (1:1) and identify (1:N)."""

from __future__ import annotations

from functools import partial

from fastapi import Request

from edge_service.deps import (
    GalleryPath,
    MaxFacesQuery,
    MayMatch,
    QualityQuery,
    ServicesDep,
    SubjectPath,
    TopKQuery,
    picture_body,
)
from edge_service.routes.answers import box_of, by_gallery, quality_of
from edge_service.uploads import read_pictures
from shared.http.rate_limits import count_probes
from shared.http.routes import api_router
from shared.wire.edge import IdentifiedFace, IdentifyFacesAnswer, VerifyFaceAnswer

router = api_router("/v1/galleries/{gallery}", "matching")


@router.post("/subjects/{subject}/verify", dependencies=[MayMatch], openapi_extra=picture_body())
async def verify(
    request: Request,
    gallery: GalleryPath,
    subject: SubjectPath,
    services: ServicesDep,
    quality_filter: QualityQuery = None,
) -> VerifyFaceAnswer:
    """Whether the picture shows this subject."""
    [picture] = await read_pictures(request, services.settings.pictures, at_most=1)
    answer, face = await services.recognition.verify(gallery, subject, picture, quality_filter)
    return VerifyFaceAnswer(
        decision=answer.decision,
        similarity=answer.similarity,
        **by_gallery(answer, services.default_threshold).model_dump(),
        faces_found=face.faces_found,
        quality=quality_of(face),
    )


@router.post("/identify", dependencies=[MayMatch], openapi_extra=picture_body())
async def identify(
    request: Request,
    gallery: GalleryPath,
    services: ServicesDep,
    top_k: TopKQuery = 5,
    max_faces: MaxFacesQuery = 1,
    quality_filter: QualityQuery = None,
) -> IdentifyFacesAnswer:
    """Who of the gallery the picture shows. Only subjects that reach the threshold are named."""
    [picture] = await read_pictures(request, services.settings.pictures, at_most=1)
    answer, selected = await services.recognition.identify(
        gallery,
        picture,
        top_k=top_k,
        max_faces=max_faces,
        quality=quality_filter,
        count_probes=partial(count_probes, request),
    )
    faces = [
        IdentifiedFace(
            box=box_of(face), quality=quality_of(face), decision=result.decision, candidates=result.candidates
        )
        for face, result in zip(selected.faces, answer.results, strict=True)
    ]
    return IdentifyFacesAnswer(
        faces=faces,
        faces_found=selected.faces_found,
        faces_left_out=selected.left_out,
        **by_gallery(answer, services.default_threshold).model_dump(),
    )
