"""Every setting of the edge, with its reason.

Environment variables begin with ``PATRONUS_EDGE__``, with ``__`` between levels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from shared.home import patronus_home
from shared.names import QualityFilter
from shared.service_settings import ServiceSettings, SettingsGroup
from shared.urls import Origin, PathPrefix, ServiceUrl

MirroredFaces = Literal["off", "enrollment", "both"]


class CloudSettings(SettingsGroup):
    """How the edge reaches the cloud."""

    url: ServiceUrl = "http://127.0.0.1:8001"
    # This edge's API key at the cloud. On one machine, the one that the cloud created at its first start.
    api_key_file: Path = Field(default_factory=lambda: patronus_home() / "cloud" / "api_key")
    # The authority that must have signed the cloud's certificate. Absent: those that this system trusts.
    ca: Path | None = None
    # This edge's client certificate and its key: PEM, the key without a passphrase.
    certificate: Path | None = None
    key: Path | None = None
    connect_timeout_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    # A search in a large gallery takes some 0.1 s; after this long no answer is expected.
    answer_timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    # Every call is safe to repeat (templates carry ids chosen here), so a dropped connection costs one retry.
    attempts: Annotated[int, Field(ge=1, le=5)] = 3
    connections: Annotated[int, Field(ge=1, le=1000)] = 32
    # How long a gallery's contract is cached; the cloud refuses a template under an outdated one.
    gallery_cache_s: Annotated[float, Field(ge=0, le=3600)] = 30.0

    @model_validator(mode="after")
    def _complete_tls(self) -> CloudSettings:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a certificate and its key go together")
        if self.url.startswith("http:") and (self.ca or self.certificate):
            raise ValueError("certificates are for an address that begins with https://")
        return self


class InferenceSettings(SettingsGroup):
    """How ONNX Runtime runs the models."""

    # The first available one runs; CPU must be among them as the last resort.
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    # 0: as many as there are processors this process may use, at most 16. More only wait for each other.
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    # Spinning threads burn the core that the next model needs: 1.2 to 1.6 times as long with it (docs/speed.md).
    spinning: bool = False
    # The arena keeps the largest detection pass's memory for good, and was no faster beyond the noise (docs/speed.md).
    arena: bool = False


class PictureLimits(SettingsGroup):
    """Limits of pictures."""

    max_bytes: Annotated[int, Field(ge=1024, le=2**30)] = 15 * 1024 * 1024
    # 40 megapixels cover phones' main cameras and are 120 MB decoded; more is a decompression bomb or a mistake.
    max_pixels: Annotated[int, Field(ge=1024, le=2**30)] = 40_000_000
    # No longer panorama of 40 megapixels is within the next limit; every row and column costs beside its pixels.
    max_side: Annotated[int, Field(ge=1024, le=2**16)] = 36_000
    # Long side over short side. No face can be found in a strip.
    max_aspect: Annotated[int, Field(ge=4, le=2**16)] = 32
    # Peak memory of decoding one picture, which follows from its header.
    max_memory_bytes: Annotated[int, Field(ge=32_000_000, le=2**40)] = 400_000_000
    # Memory of all pictures being processed; 0: a share of what this process may use, by its control group.
    all_memory_bytes: Annotated[int, Field(ge=0, le=2**40)] = 0
    # How long a picture may wait for its memory, with its worker, before it is answered 429. Decoding takes a second
    # at most, and searching about as long.
    memory_wait_s: Annotated[float, Field(ge=0, le=60)] = 3.0
    # Several pictures of one person in one enrollment.
    max_pictures: Annotated[int, Field(ge=1, le=50)] = 10
    max_request_bytes: Annotated[int, Field(ge=1024, le=2**31)] = 48 * 1024 * 1024
    body_timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0


class DetectionSettings(SettingsGroup):
    """How faces are found."""

    score_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.8
    nms_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.3
    # Longest side of the first pass, in pixels: 11 to 14 ms on two cores (docs/speed.md).
    first_pass_side: Annotated[int, Field(ge=160, le=2048)] = 640
    # Longest side of the second pass, for small faces in large pictures: when the first found none, or all are wanted.
    second_pass_side: Annotated[int, Field(ge=160, le=4096)] = 1920
    # Where these passes find no face that is the right way up: search for one that fills the picture, and rotate the
    # picture by 90, 180 and 270 degrees. At most 0.6 s of one core more (docs/speed.md).
    search_further: bool = True
    # Before a face is embedded: find its landmarks once more, on the aligned face, and align it anew if the first ones
    # were far off. For embedders for which it was measured to help (docs/decisions/0032): SFace.
    align_twice: bool = True


class ThresholdSettings(SettingsGroup):
    """A threshold, and the false match rate that the operator measured at it."""

    cosine: Annotated[float, Field(ge=0.0001, le=0.9999)] | None = None
    fmr: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> ThresholdSettings:
        if (self.cosine is None) != (self.fmr is None):
            raise ValueError("cosine and fmr go together: a threshold means nothing without its false match rate")
        return self


class WorkSettings(SettingsGroup):
    """How much work runs and waits at once."""

    # Requests that are processed at the same time; 0: one for each processor that this process may use, at
    # most 16 (shared/security/process_limits.py). Each holds one decoded picture in memory.
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    # Requests that may wait for a worker; one more is answered 429 instead of waiting without end.
    waiting: Annotated[int, Field(ge=0, le=1000)] = 32


class EdgeSettings(ServiceSettings):
    """All settings of the edge."""

    model_config = SettingsConfigDict(env_prefix="PATRONUS_EDGE__")

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    home: Path = Field(default_factory=lambda: patronus_home() / "edge")
    # The protection profile of new galleries: a folder of edge_service/protection/profiles, or of `profiles`. Galleries
    # made under another one are served under that, where it is there and does all that this one does.
    profile: str = "default-2"
    # Profiles that do less than `profile` (no seal, say) and are served all the same. The cloud states which profile a
    # gallery is under: without this list it cannot make the edge protect less.
    weaker_profiles: tuple[str, ...] = ()
    # The operator's own profiles, each a folder with a profile.json.
    profiles: Path | None = None
    # sface_2021dec; dlib_resnet29 once it is fetched; or one of the operator's own, by the name that
    # `patronus models add` gave it. A gallery stays with its embedder.
    embedder: str = "sface_2021dec"
    # The operator's own embedders, each a folder that `patronus models add` made.
    embedders: Path = Field(default_factory=lambda: patronus_home() / "embedders")
    # The threshold of comparisons, and of galleries that are created without one, in place of the profile's and the
    # embedder's. An embedder of the operator's own under a profile without a threshold, such as `seal`, has no other.
    threshold: ThresholdSettings = ThresholdSettings()
    quality_filter: QualityFilter = "auto"
    # Of which pictures the mirrored face is embedded too: one more embedding for each face (docs/decisions/0031). At
    # enrollment it is made once and helps every later comparison. Galleries may mix the three. For SFace; under dlib it
    # is off, whose false match rate would double.
    mirrored: MirroredFaces = "enrollment"
    # Origins of web pages whose scripts may call this edge from a browser; none by default. Any visitor of such a page
    # can read the API key that it uses.
    cors_origins: tuple[Origin, ...] = ()
    # The path that a proxy in front strips off before it passes a request on. For the OpenAPI document and for links.
    root_path: PathPrefix = ""
    # Subjects whose names are kept in memory for lists, opened and sorted: about 70 MB for 200,000. A gallery with more
    # is not listed; its subjects are found by their names all the same.
    max_listed_subjects: Annotated[int, Field(ge=1, le=10_000_000)] = 200_000
    # The console: a page at `/` for browsers, which sign in with an API key or a one-time link.
    console: bool = True
    # Whether a caller may have the edge keep, for a minute and in memory, what it sent to the cloud for one request.
    record_sent: bool = True
    cloud: CloudSettings = CloudSettings()
    inference: InferenceSettings = InferenceSettings()
    pictures: PictureLimits = PictureLimits()
    detection: DetectionSettings = DetectionSettings()
    work: WorkSettings = WorkSettings()

    @property
    def address_file(self) -> Path:
        """The file with this machine's edge's address, for the command line."""
        return self.home / "address"

    @property
    def sign_in_file(self) -> Path:
        """The private file with the digests of one-time codes for the console."""
        return self.home / "sign_in_codes.json"

    @property
    def cloud_connection_file(self) -> Path:
        """The file with this machine's edge's ``CloudSettings`` as JSON, for the command line."""
        return self.home / "cloud.json"
