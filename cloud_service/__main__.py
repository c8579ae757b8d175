"""``python -m cloud_service``: the cloud's commands without the rest of ``patronus``."""

from cloud_service.cli import app
from shared.command import run

if __name__ == "__main__":
    run(app)
