"""Model files: the manifest that pins them, and how they are fetched, converted, checked and found.

Here is everything up to a file on disk whose digest is right. Running a model lives in `edge_service.vision`.
"""

from edge_service.models.manifest import Manifest, ModelEntry, load_manifest
from edge_service.models.store import (
    FileState,
    PreparedModel,
    locate,
    models_dir,
    prepare,
    sources_dir,
    upstream_base,
    verify,
)

__all__ = [
    "FileState",
    "Manifest",
    "ModelEntry",
    "PreparedModel",
    "load_manifest",
    "locate",
    "models_dir",
    "prepare",
    "sources_dir",
    "upstream_base",
    "verify",
]
