"""The edge's metrics: those of every service, and counters of protection."""

from __future__ import annotations

from prometheus_client import Counter

from edge_service.protection.protect import Protected
from shared.logs import get_logger
from shared.metrics import Metrics

_log = get_logger(__name__)


class EdgeMetrics(Metrics):
    """Counts templates made, and templates left unperturbed, in addition to requests and steps."""

    def __init__(self) -> None:
        super().__init__("edge")
        self._protected = Counter(
            "patronus_edge_protected_total",
            "Templates made, by whether a seal was applied",
            ["sealed"],
            registry=self.registry,
        )
        self._sealed, self._plain = self._protected.labels("yes"), self._protected.labels("no")
        self._unperturbed = Counter(
            "patronus_edge_unperturbed_total",
            "Templates that the profile's network left unperturbed, for lack of a margin to the threshold",
            registry=self.registry,
        )

    def count_protected(self, protected: Protected) -> None:
        """Counts one batch."""
        made = len(protected.templates)
        (self._sealed if "seal" in protected.done else self._plain).inc(made)
        if protected.unperturbed:
            self._unperturbed.inc(protected.unperturbed)
            _log.info("not_perturbed", templates=protected.unperturbed, of=made)
