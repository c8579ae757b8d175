"""The commands ``patronus edge``, ``models``, ``keys``, and the client's commands at the top level.

Most of the client's know nothing of the service's inside: they speak REST like any other caller.
``protect`` alone needs no service and runs the edge's own code.
"""

from edge_service.cli.embeddings import app as embeddings
from edge_service.cli.galleries import gallery
from edge_service.cli.gallery_keys import app as keys
from edge_service.cli.recognition import app as client
from edge_service.cli.service import app as edge
from edge_service.cli.subjects import app as subject
from edge_service.models.cli import app as models

client.add_typer(gallery, name="gallery")
client.add_typer(subject, name="subject")
client.add_typer(embeddings)

__all__ = ["client", "edge", "keys", "models"]
