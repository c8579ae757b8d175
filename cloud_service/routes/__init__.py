"""The HTTP interface, one module a resource. Handlers translate; what happens is in ``gallery``."""

from fastapi import APIRouter

from cloud_service.routes import galleries, info, matching, rekey, subjects, templates
from shared.http.problems import RESPONSES

router = APIRouter(prefix="/v1", responses=RESPONSES)
for _part in (info, galleries, subjects, templates, matching, rekey):
    router.include_router(_part.router)
