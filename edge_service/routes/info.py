"""What this edge is."""

from __future__ import annotations

from fastapi import Request

from edge_service.deps import MayAsk, ReaderDep, SettingsDep, ThresholdDep
from edge_service.protection.profiles import Profile
from edge_service.vision.decode import FORMATS
from shared.home import patronus_version
from shared.http.routes import api_router
from shared.wire.edge import EdgeInfo

router = api_router("/v1", "system")


@router.get("/info", dependencies=[MayAsk])
async def info(request: Request, reader: ReaderDep, settings: SettingsDep, default: ThresholdDep) -> EdgeInfo:
    """Versions, the contract under which this edge makes templates, and limits."""
    profile: Profile = request.app.state.profile
    return EdgeInfo(
        version=patronus_version(),
        embedder=reader.pin,
        profile=profile.pin,
        sealed=profile.seals,
        dim=reader.spec.dim,
        default_threshold=default.threshold,
        threshold_from=default.chosen_by,
        fmr_measured_on=default.measured_on,
        max_picture_bytes=settings.pictures.max_bytes,
        max_pixels=settings.pictures.max_pixels,
        max_pictures_a_request=settings.pictures.max_pictures,
        formats=list(FORMATS),
    )
