"""Patronus for a recognition system of your own: protects its embeddings, without a service; and a client of the edge.

::

    from patronus_face import Key, Protector

    protector = Protector.open("default-2", key=Key.load_or_create("acme.key"))
    templates = protector.protect(embeddings)   # the stored ones once, then each probe

Templates are compared as the embeddings were: matcher, index and threshold stay. See docs/plug-in.md.

Each name is loaded when it is first used, so that a program loads the libraries of what it uses, and no others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_service.protection.key_file import Key
    from patronus_face.protector import Protector
    from shared.client import AsyncClient, Client
    from shared.errors import Conflict, ContractMismatch, PatronusError, ProtectionFailed, SetupError, Unprocessable
    from shared.wire.common import Threshold
    from shared.wire.thresholds import ThresholdFor

_MODULES = {
    "AsyncClient": "shared.client",
    "Client": "shared.client",
    "Key": "edge_service.protection.key_file",
    "Protector": "patronus_face.protector",
    **dict.fromkeys(
        ("Conflict", "ContractMismatch", "PatronusError", "ProtectionFailed", "SetupError", "Unprocessable"),
        "shared.errors",
    ),
    "Threshold": "shared.wire.common",
    "ThresholdFor": "shared.wire.thresholds",
}

__all__ = [
    "AsyncClient",
    "Client",
    "Conflict",
    "ContractMismatch",
    "Key",
    "PatronusError",
    "ProtectionFailed",
    "Protector",
    "SetupError",
    "Threshold",
    "ThresholdFor",
    "Unprocessable",
]


def __getattr__(name: str) -> Any:
    """A public name, at its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
