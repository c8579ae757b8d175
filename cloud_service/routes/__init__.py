"""The HTTP interface: one module a resource, whose handlers call the services."""

from cloud_service.routes import audit, erasures, galleries, index, info, matching, rekey, subjects, templates

# Matching first: a route is found by trying one after another.
_RESOURCES = (matching, templates, subjects, galleries, erasures, index, rekey, audit, info)
ROUTERS = tuple(resource.router for resource in _RESOURCES)
