"""``python -m edge_service.models``: the model commands without the rest of ``patronus``."""

from edge_service.models.cli import app
from shared.command import run

run(app)
