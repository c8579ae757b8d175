"""Model files: the manifest that pins them, and how they are fetched, converted and checked.

This ends with a file on disk whose digest is right. `edge_service.vision` runs the models.
"""

from edge_service.models.manifest import Manifest, load_manifest
from edge_service.models.store import PreparedModel, locate, models_dir, prepare, sources_dir, upstream_base, verify

__all__ = [
    "Manifest",
    "PreparedModel",
    "load_manifest",
    "locate",
    "models_dir",
    "prepare",
    "sources_dir",
    "upstream_base",
    "verify",
]
