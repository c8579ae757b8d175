"""The HTTP interface, one module a resource. Handlers translate; what happens is in ``gallery``."""

from cloud_service.routes import galleries, index, info, matching, subjects, templates

# Matching first: a route is found by trying one after another.
ROUTERS = tuple(part.router for part in (matching, templates, subjects, galleries, index, info))
