"""What this cloud runs and accepts."""

from __future__ import annotations

from fastapi import APIRouter

from cloud_service.deps import MAY_ANYTHING, ServicesDep
from shared.home import patronus_version
from shared.wire.cloud import CloudInfo

router = APIRouter(tags=["info"])


@router.get("/info", response_model=CloudInfo, dependencies=[MAY_ANYTHING])
async def info(services: ServicesDep) -> CloudInfo:
    """Returns version and limits; for any valid key."""
    return CloudInfo(version=patronus_version(), max_body_bytes=services.settings.body.max_bytes)
