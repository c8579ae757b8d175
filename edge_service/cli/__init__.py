"""The commands ``patronus edge``, ``models``, ``keys``, and the client verbs that talk to an edge over HTTP.

``client`` and ``console`` know nothing of the service's inside: they speak REST like any other caller.
"""

from edge_service.cli.client import app as client
from edge_service.cli.gallery_keys import app as keys
from edge_service.cli.service import app as edge
from edge_service.models.cli import app as models

__all__ = ["client", "edge", "keys", "models"]
