"""What this cloud runs and accepts."""

from __future__ import annotations

from cloud_service.deps import MAY_ANYTHING, ServicesDep
from shared.home import patronus_version
from shared.http.routes import api_router
from shared.wire.cloud import CloudInfo

router = api_router("/v1", "info")


@router.get("/info", response_model=CloudInfo, dependencies=[MAY_ANYTHING])
async def get_info(services: ServicesDep) -> CloudInfo:
    """Get version and limits of the cloud."""
    return CloudInfo(version=patronus_version(), max_body_bytes=services.settings.body.max_bytes)
