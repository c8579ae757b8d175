"""The HTTP interface, one module a resource. Handlers translate; what happens is in ``gallery``."""

from cloud_service.routes import audit, erasures, galleries, index, info, matching, rekey, subjects, templates

# Matching first: a route is found by trying one after another.
_PARTS = (matching, templates, subjects, galleries, erasures, index, rekey, audit, info)
ROUTERS = tuple(part.router for part in _PARTS)
