"""Detection and comparison at the edge; nothing is sent to the cloud."""

from __future__ import annotations

from fastapi import Request

from edge_service.deps import MayMatch, QualityQuery, ServicesDep, picture_body
from edge_service.routes.answers import by_default, face_of, quality_of, rotation_of
from edge_service.uploads import read_pictures
from edge_service.vision.quality import level_for
from shared.http.routes import api_router
from shared.wire.edge import CompareAnswer, DetectAnswer

router = api_router("/v1", "pictures")


@router.post("/detect", dependencies=[MayMatch], openapi_extra=picture_body())
async def detect(request: Request, services: ServicesDep, quality_filter: QualityQuery = None) -> DetectAnswer:
    """The faces of a picture: boxes, landmarks, and what the quality filter objects to."""
    [picture] = await read_pictures(request, services.settings.pictures, at_most=1)
    found = await services.recognition.detect(picture)
    level = level_for(quality_filter or services.settings.quality_filter, "enroll")
    return DetectAnswer(
        width=found.width,
        height=found.height,
        rotation=rotation_of(found),
        faces_found=found.faces_found,
        faces=[face_of(face, level) for face in found.faces],
    )


@router.post("/compare", dependencies=[MayMatch], openapi_extra=picture_body(2, 2))
async def compare(request: Request, services: ServicesDep, quality_filter: QualityQuery = None) -> CompareAnswer:
    """Compares the faces of two pictures, sent as two `image` parts, at the default threshold."""
    pictures = await read_pictures(request, services.settings.pictures, at_most=2, exactly=True)
    default = services.default_threshold
    answer, faces = await services.recognition.compare(pictures, default.threshold, quality_filter)
    return CompareAnswer(
        decision=answer.decision,
        similarity=answer.similarity,
        **by_default(default).model_dump(),
        faces_found=[face.faces_found for face in faces],
        qualities=[quality_of(face) for face in faces],
    )
