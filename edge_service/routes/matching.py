"""Verify (1:1) and identify (1:N); detection and comparison, for which nothing is sent to the cloud."""

from __future__ import annotations

from functools import partial

from fastapi import Request

from edge_service.deps import (
    GalleryPath,
    MaxFacesQuery,
    MayMatch,
    QualityQuery,
    RecordsSent,
    ServicesDep,
    SubjectPath,
    TopKQuery,
    picture_body,
)
from edge_service.routes.answers import box_of, face_of, gallery_decision, own_threshold, quality_of, rotation_of
from edge_service.uploads import read_pictures
from shared.http.rate_limits import count_probes
from shared.http.routes import api_router
from shared.wire.edge import CompareAnswer, DetectAnswer, IdentifiedFace, IdentifyFacesAnswer, VerifyFaceAnswer

router = api_router("/v1/galleries/{gallery}", "matching")
pictures = api_router("/v1", "pictures")


@router.post("/subjects/{subject}/verify", dependencies=[MayMatch, RecordsSent], openapi_extra=picture_body())
async def verify_face(
    request: Request,
    gallery: GalleryPath,
    subject: SubjectPath,
    services: ServicesDep,
    quality_filter: QualityQuery = None,
) -> VerifyFaceAnswer:
    """Verify a face (1:1).

    Decides whether the largest face of the picture is this subject's.
    """
    [picture] = await read_pictures(request, services.settings.pictures, at_most=1)
    answer, face, context = await services.recognition.verify(gallery, subject, picture, quality_filter)
    return VerifyFaceAnswer(
        decision=answer.decision,
        similarity=answer.similarity,
        **gallery_decision(answer, context, services.profiles).model_dump(),
        faces_found=face.faces_found,
        quality=quality_of(face),
    )


@router.post("/identify", dependencies=[MayMatch, RecordsSent], openapi_extra=picture_body())
async def identify_faces(
    request: Request,
    gallery: GalleryPath,
    services: ServicesDep,
    top_k: TopKQuery = 5,
    max_faces: MaxFacesQuery = 1,
    quality_filter: QualityQuery = None,
) -> IdentifyFacesAnswer:
    """Identify faces (1:N).

    Searches the gallery for the `max_faces` largest faces of the picture. Only subjects that reach the threshold are
    named.
    """
    [picture] = await read_pictures(request, services.settings.pictures, at_most=1)
    found = await services.recognition.identify(
        gallery,
        picture,
        top_k=top_k,
        max_faces=max_faces,
        quality=quality_filter,
        count_probes=partial(count_probes, request),
    )
    results = zip(found.selected.faces, found.answer.results, found.candidates, strict=True)
    faces = [
        IdentifiedFace(box=box_of(face), quality=quality_of(face), decision=result.decision, candidates=candidates)
        for face, result, candidates in results
    ]
    return IdentifyFacesAnswer(
        faces=faces,
        faces_found=found.selected.faces_found,
        faces_left_out=found.selected.left_out,
        **gallery_decision(found.answer, found.context, services.profiles).model_dump(),
    )


@pictures.post("/detect", dependencies=[MayMatch], openapi_extra=picture_body())
async def detect_faces(request: Request, services: ServicesDep, quality_filter: QualityQuery = None) -> DetectAnswer:
    """Detect the faces of a picture.

    Returns boxes, landmarks and quality, with the reasons for which the quality filter would refuse a face. Nothing is
    sent to the cloud.
    """
    [picture] = await read_pictures(request, services.settings.pictures, at_most=1)
    found = await services.recognition.detect(picture)
    level = services.recognition.level(quality_filter, "enroll")
    return DetectAnswer(
        width=found.width,
        height=found.height,
        rotation=rotation_of(found),
        faces_found=found.faces_found,
        faces=[face_of(face, level) for face in found.faces],
    )


@pictures.post("/compare", dependencies=[MayMatch], openapi_extra=picture_body(2, 2))
async def compare_faces(request: Request, services: ServicesDep, quality_filter: QualityQuery = None) -> CompareAnswer:
    """Compare the faces of two pictures.

    The pictures are two `image` parts. Decides at the edge's default threshold, and sends nothing to the cloud.
    """
    default = services.profiles.needed_threshold(services.profile)
    both = await read_pictures(request, services.settings.pictures, at_most=2, exactly=True)
    answer, faces = await services.recognition.compare(both, default.threshold, quality_filter)
    return CompareAnswer(
        decision=answer.decision,
        similarity=answer.similarity,
        **own_threshold(default).model_dump(),
        faces_found=[face.faces_found for face in faces],
        qualities=[quality_of(face) for face in faces],
    )
