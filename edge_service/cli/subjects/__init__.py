"""The commands about subjects: ``patronus subject``, and what ``enroll`` and ``gallery duplicates`` do.

They are written on the public client.
"""

from edge_service.cli.subjects.commands import app

__all__ = ["app"]
