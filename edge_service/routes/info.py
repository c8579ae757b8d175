"""What this edge is."""

from __future__ import annotations

from edge_service.console.attack_figures import rebuilt_rates
from edge_service.deps import MayAsk, ServicesDep
from edge_service.vision.formats import FORMATS
from shared.home import patronus_version
from shared.http.routes import api_router
from shared.wire.edge import EdgeInfo
from shared.wire.edge_console import ConsoleInfo

router = api_router("/v1", "system")


@router.get("/info", dependencies=[MayAsk])
async def get_info(services: ServicesDep) -> EdgeInfo:
    """Get versions, models and limits of the edge."""
    profile, reader, limits = services.profile, services.reader, services.settings.pictures
    default = services.profiles.default_threshold(profile)
    return EdgeInfo(
        version=patronus_version(),
        embedder=reader.pin,
        profile=profile.pin,
        sealed=profile.seals,
        dim=reader.spec.dim,
        default_threshold=None if default is None else default.threshold,
        threshold_from=None if default is None else default.chosen_by,
        fmr_measured_on=None if default is None else default.measured_on,
        max_picture_bytes=limits.max_bytes,
        max_pixels=limits.max_pixels,
        max_pictures_a_request=limits.max_pictures,
        formats=list(FORMATS),
        console=ConsoleInfo(
            decoder=services.rebuilder.decoder is not None,
            recording=services.settings.record_sent,
            rebuilt=rebuilt_rates(profile.document.figures),
        ),
        galleries=f"{services.settings.root_path}/v1/galleries",
    )
