"""The commands ``patronus edge``, ``models``, ``keys``, and the verbs at the top level.

Most of those are client verbs, which know nothing of the service's inside: they speak REST like any other caller.
``protect`` alone needs no service and runs the edge's own code.
"""

from edge_service.cli.client import app as client
from edge_service.cli.gallery_keys import app as keys
from edge_service.cli.protection import app as protection
from edge_service.cli.service import app as edge
from edge_service.models.cli import app as models

client.add_typer(protection)

__all__ = ["client", "edge", "keys", "models"]
