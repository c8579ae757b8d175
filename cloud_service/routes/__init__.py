"""The HTTP interface: handlers, by resource, that call the services."""

from cloud_service.routes import audit, erasures, galleries, index, info, matching, rekey, subjects

# Matching first: a route is found by trying one after another.
_OTHERS = (subjects, galleries, erasures, index, rekey, audit, info)
ROUTERS = (matching.router, subjects.templates, *(resource.router for resource in _OTHERS))
