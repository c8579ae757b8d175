"""What the edge consists of, opened once at its start."""

from __future__ import annotations

import httpx

from edge_service.cloud.client import CloudClient
from edge_service.cloud.recorder import SentRecorder
from edge_service.console.browser_keys import EdgeKeyRing
from edge_service.console.rebuild import Rebuilder
from edge_service.console.sign_in_codes import SignInCodes
from edge_service.gallery_contexts import GalleryContexts
from edge_service.metrics import EdgeMetrics
from edge_service.protection.keys import KeyStore
from edge_service.protection.served_profiles import ServedProfiles
from edge_service.recognition import Recognition
from edge_service.rekey import GalleryRekey
from edge_service.settings import EdgeSettings
from edge_service.subjects.embeddings import EmbeddingEnrollment
from edge_service.subjects.enrollment import Enrollment
from edge_service.subjects.lists import SubjectLists
from edge_service.subjects.management import SubjectManagement
from edge_service.subjects.sender import TemplateSender
from edge_service.vision.reader import FaceReader
from edge_service.workers import Workers
from shared.logs import get_logger
from shared.wire.common import Threshold

_log = get_logger(__name__)


class Services:
    """The parts of a running edge, as handlers get them.

    Args:
        settings: of this edge.
        metrics: where steps are timed, and templates counted.
        transport: how the cloud is reached, instead of the network, in tests.

    Raises:
        SetupError: a key, a model, the profile or a TLS file is missing or wrong.
    """

    def __init__(
        self, settings: EdgeSettings, metrics: EdgeMetrics, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.settings = settings
        keys = KeyStore(settings.home, may_make=not settings.keys_file.exists())
        self.key_ring = EdgeKeyRing(settings.keys_file)
        self.sign_in_codes = SignInCodes(settings.sign_in_file)
        if self.key_ring.ensure_first_key(settings.first_key_file):
            _log.info("first_api_key_made", file=str(settings.first_key_file))
        self.key_ring.records()  # a file that cannot be read stops the start
        self.reader = FaceReader(settings, metrics)
        pin, spec = self.reader.pin, self.reader.spec
        stated = settings.threshold
        self.profiles = ServedProfiles(
            settings.profile,
            pin,
            spec,
            settings.profiles,
            settings.weaker_profiles,
            metrics.count_protected,
            None if stated.cosine is None or stated.fmr is None else Threshold(cosine=stated.cosine, fmr=stated.fmr),
        )
        # Of new galleries, and of what is for no gallery.
        self.profile = self.profiles.default.profile
        if self.profiles.default_threshold(self.profile) is None:
            _log.warning("no_default_threshold", needs="PATRONUS_EDGE__THRESHOLD__COSINE and __FMR, or one a gallery")
        self.recorder = SentRecorder()
        self.cloud = CloudClient(settings.cloud, metrics, transport)
        self.workers = Workers(settings.work)
        self.galleries = GalleryContexts(
            cloud=self.cloud, keys=keys, profiles=self.profiles, cache_s=settings.cloud.gallery_cache_s
        )
        self.rebuilder = Rebuilder.beside(settings.profiles, settings.profile, pin, spec.dim)
        mirrored = settings.mirrored if spec.mirror else "off"
        sender = TemplateSender(cloud=self.cloud, galleries=self.galleries, workers=self.workers, metrics=metrics)
        enrollment = Enrollment(cloud=self.cloud, profiles=self.profiles, sender=sender)
        self.recognition = Recognition(
            reader=self.reader,
            profiles=self.profiles,
            galleries=self.galleries,
            keys=keys,
            sender=sender,
            enrollment=enrollment,
            workers=self.workers,
            quality_filter=settings.quality_filter,
            mirrored=mirrored,
        )
        self.embeddings = EmbeddingEnrollment(galleries=self.galleries, enrollment=enrollment, dim=spec.dim)
        self.subjects = SubjectManagement(cloud=self.cloud, galleries=self.galleries, workers=self.workers)
        self.subject_lists = SubjectLists(cloud=self.cloud, galleries=self.galleries, most=settings.max_listed_subjects)
        self.rekey = GalleryRekey(cloud=self.cloud, keys=keys, galleries=self.galleries, workers=self.workers)
        _log.info("edge_ready", profile=self.profile.pin.name, embedder=pin.name, mirrored=mirrored)

    async def close(self) -> None:
        """Lets running work end, and closes the connections to the cloud."""
        self.recorder.close()
        self.workers.close()
        await self.cloud.close()
