"""What the edge consists of, opened once at its start."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from edge_service.cloud_client import CloudClient
from edge_service.gallery_contexts import GalleryContexts
from edge_service.metrics import ProtectionMetrics
from edge_service.protection.keys import KeyStore
from edge_service.protection.profiles.files import DefaultThreshold, Profile, load_profile
from edge_service.protection.protect import Protector
from edge_service.recognition import Recognition
from edge_service.rekey import GalleryRekey
from edge_service.settings import EdgeSettings
from edge_service.vision.reader import FaceReader, open_reader
from edge_service.workers import Workers
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.security.key_ring import KeyRing

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of a running edge, as handlers get them.

    Attributes:
        settings: of this edge.
        key_ring: API keys of callers.
        profile: how embeddings are protected.
        default_threshold: of comparisons, and of galleries that are created without one.
        reader: pictures to embeddings.
        cloud: the cloud's REST interface.
        galleries: cached contracts and keys of galleries.
        workers: the threads for heavy work.
        recognition: what is done with pictures and embeddings.
        rekey: changes of galleries' keys.
    """

    settings: EdgeSettings
    key_ring: KeyRing
    profile: Profile
    default_threshold: DefaultThreshold
    reader: FaceReader
    cloud: CloudClient
    galleries: GalleryContexts
    workers: Workers
    recognition: Recognition
    rekey: GalleryRekey

    async def close(self) -> None:
        """Lets running work end, and closes the connections to the cloud."""
        self.workers.close()
        await self.cloud.close()


def open_services(
    settings: EdgeSettings,
    metrics: Metrics,
    protection_metrics: ProtectionMetrics,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Services:
    """Reads keys, models and profile, and builds the parts.

    Args:
        settings: of this edge.
        metrics: where steps are timed.
        protection_metrics: where templates are counted.
        transport: how the cloud is reached, instead of the network, in tests.

    Raises:
        SetupError: a key, a model, the profile or a TLS file is missing or wrong.
    """
    keys = KeyStore(settings.home, may_make=not settings.keys_file.exists())
    key_ring = KeyRing(settings.keys_file)
    if key_ring.ensure_first_key(settings.first_key_file):
        _log.info("first_api_key_made", file=str(settings.first_key_file))
    key_ring.records()  # a file that cannot be read stops the start
    reader = open_reader(settings, metrics)
    pin, dim = reader.pin, reader.spec.dim
    profile = load_profile(settings.profile, pin, dim, settings.profiles)
    if not profile.seals:
        _log.warning("profile_does_not_seal", profile=profile.pin.name, sends="templates that are nearly embeddings")
    protector = Protector(profile, on_protected=protection_metrics.count)
    cloud = CloudClient(settings.cloud, metrics, transport)
    workers = Workers(settings.work)
    galleries = GalleryContexts(
        cloud=cloud, keys=keys, profile=profile, embedder=pin, dim=dim, cache_s=settings.cloud.gallery_cache_s
    )
    recognition = Recognition(
        reader=reader,
        protector=protector,
        galleries=galleries,
        keys=keys,
        cloud=cloud,
        workers=workers,
        metrics=metrics,
        quality_filter=settings.quality_filter,
    )
    _log.info("edge_ready", profile=profile.pin.name, embedder=pin.name)
    return Services(
        settings=settings,
        key_ring=key_ring,
        profile=profile,
        default_threshold=profile.default_threshold(reader.spec.threshold),
        reader=reader,
        cloud=cloud,
        galleries=galleries,
        workers=workers,
        recognition=recognition,
        rekey=GalleryRekey(cloud=cloud, keys=keys, galleries=galleries, workers=workers),
    )
