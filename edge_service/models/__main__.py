"""`python -m edge_service.models`: the model commands without the rest of `patronus`."""

from edge_service.models.cli import app

app(prog_name="python -m edge_service.models")
