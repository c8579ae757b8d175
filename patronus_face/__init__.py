"""Patronus for a recognition system of your own: protects its embeddings, without a service.

::

    from patronus_face import Key, Protector

    protector = Protector.open("default", key=Key.load_or_create("acme.key"))
    templates = protector.protect(embeddings)   # the stored ones once, then each probe

Templates are compared as the embeddings were: matcher, index and threshold stay. See docs/plug-in.md.
"""

from edge_service.protection.key_file import Key
from patronus_face.protector import Protector
from shared.errors import Conflict, ContractMismatch, PatronusError, ProtectionFailed, SetupError, Unprocessable

__all__ = [
    "Conflict",
    "ContractMismatch",
    "Key",
    "PatronusError",
    "ProtectionFailed",
    "Protector",
    "SetupError",
    "Unprocessable",
]
