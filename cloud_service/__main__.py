"""``python -m cloud_service``: the cloud's commands without the rest of ``patronus``."""

import sys

import click

from cloud_service.cli import app
from shared.errors import PatronusError

try:
    app(prog_name="python -m cloud_service")
except PatronusError as error:
    click.echo(error.detail, err=True)
    sys.exit(1)
