"""``python -m edge_service serve``: the edge alone, without the ``patronus`` command."""

from edge_service.cli.service import app
from shared.command import run

if __name__ == "__main__":
    run(app)
