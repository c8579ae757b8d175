"""Counters of protection: templates made, and templates left unperturbed."""

from __future__ import annotations

from prometheus_client import Counter

from edge_service.protection.protect import Protected
from shared.logs import get_logger
from shared.metrics import Metrics

_log = get_logger(__name__)


class ProtectionMetrics:
    """Counters of protected templates.

    Args:
        metrics: of the edge, whose registry holds the counters.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._protected = Counter(
            "patronus_edge_protected_total",
            "Templates made, by whether a seal was applied",
            ["sealed"],
            registry=metrics.registry,
        )
        self._sealed, self._plain = self._protected.labels("yes"), self._protected.labels("no")
        self._unperturbed = Counter(
            "patronus_edge_unperturbed_total",
            "Templates that the profile's network left unperturbed, for lack of a margin to the threshold",
            registry=metrics.registry,
        )

    def count(self, protected: Protected) -> None:
        """Counts one batch."""
        made = len(protected.templates)
        (self._sealed if "seal" in protected.done else self._plain).inc(made)
        if protected.unperturbed:
            self._unperturbed.inc(protected.unperturbed)
            _log.info("not_perturbed", templates=protected.unperturbed, of=made)
