"""Requests and answers of the cloud, which takes templates and never a picture."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from shared.contract import Contract
from shared.envelope import RotationMatrix, TemplateEnvelope
from shared.names import HexDigest, SubjectName, TemplateId
from shared.strict_types import JsonInteger
from shared.wire.common import (
    FMR_OF_RULE,
    Candidate,
    Cosine,
    ExactMoment,
    NewThreshold,
    Number,
    Rate,
    ScoreRule,
    StrictWire,
    SubjectScore,
    TemplateInfo,
    Wire,
)

MAX_TEMPLATES_A_REQUEST = 100
MAX_PROBES_A_REQUEST = 64
# Of a template in the mean of its subject's.
MIN_WEIGHT = 0.1
MAX_WEIGHT = 10.0
MAX_TOP_K = 100
MAX_ROTATIONS_A_REQUEST = 512


class GallerySpec(Wire):
    """Properties of a new gallery."""

    contract: Contract
    threshold: NewThreshold
    score: SubjectScore = Field(
        default=SubjectScore(rule="mean"),
        description="absent: `mean` with exponent 0, the mean of the cosines. An existing gallery keeps its own",
    )


class ChangeScore(StrictWire):
    """Another way to compare the subjects of a gallery."""

    score: SubjectScore


class ChangeThreshold(StrictWire):
    """Another threshold of a gallery."""

    threshold: NewThreshold


# What to change of a gallery.
ChangeGallery = ChangeScore | ChangeThreshold


class NewTemplate(Wire):
    """A template to store, under an id of your choice. Sent twice, it is stored once."""

    id: TemplateId
    template: TemplateEnvelope
    weight: Annotated[float, Field(ge=MIN_WEIGHT, le=MAX_WEIGHT, strict=True)] = Field(
        default=1.0, description="its weight in the mean of the subject's templates, relative to the others"
    )


class EnrollRequest(Wire):
    """Templates of one subject."""

    templates: Annotated[list[NewTemplate], Field(min_length=1, max_length=MAX_TEMPLATES_A_REQUEST)]


class EnrolledTemplate(TemplateInfo):
    """A template of an enrollment."""

    stored: Literal["now", "before"] = Field(
        description="`now`: by this request; `before`: the subject had this template id, which is left unchanged"
    )
    agrees: bool | None = Field(
        description="whether it would match the subject's other templates at the gallery's threshold; false may mean "
        "two people under one name. null: the subject has no other template, or the API key lacks the scope match or "
        "was told of as many as it may match"
    )


class EnrollAnswer(Wire):
    """The enrolled templates. They are committed and can be matched."""

    subject: str
    templates: list[EnrolledTemplate]
    total: int = Field(ge=1, description="how many living templates the subject has now")


class VerifyRequest(Wire):
    """A probe to compare with one subject."""

    probe: TemplateEnvelope


class IdentifyRequest(Wire):
    """Probes to search for in the whole gallery."""

    model_config = ConfigDict(strict=True)

    probes: Annotated[list[TemplateEnvelope], Field(min_length=1, max_length=MAX_PROBES_A_REQUEST)]
    top_k: JsonInteger = Field(default=5, ge=1, le=MAX_TOP_K)


class ProbeResult(Wire):
    """The subjects that one probe matched, best first; none where the decision is `unknown`."""

    decision: Literal["match", "unknown"]
    candidates: list[Candidate]


class IdentifyAnswer(Wire):
    """One result for each probe, in the order of the probes."""

    results: list[ProbeResult]
    threshold: Cosine
    score_rule: ScoreRule
    fmr_at_threshold: Rate = Field(description=FMR_OF_RULE)


# How a gallery is searched: each template compared, or only those that a coarser search proposes.
IndexKind = Literal["exact", "approximate"]


class IndexChoice(Wire):
    """How to search a gallery; `auto` decides by the number of templates."""

    kind: Literal["auto", "exact", "approximate"]


class IndexStats(Wire):
    """The index of a gallery. Scores are exact under either kind of index."""

    backend: Literal["faiss", "milvus"]
    kind: IndexKind = Field(description="at present; the last entries, up to 65,536, are always compared exactly")
    pinned: IndexKind | None = Field(description="chosen by an operator; null: decided by the number of entries")
    entries: int = Field(
        ge=0, description="vectors in the index: one for each subject, or for each template under the rule `best`"
    )
    memory_bytes: int | None = Field(ge=0, description="null where the index is not in this process")
    snapshot_entries: int | None = Field(ge=0, description="entries in files for a quick start; null: not needed")


class SnapshotInfo(Wire):
    """The files of a gallery's index. A start reads other entries from the record."""

    files: int = Field(ge=0)
    entries: int = Field(ge=0, description="as in the index's `entries`")


class AuditEntry(Wire):
    """An entry of the audit log. `digest` is computed over all members before it, in this order."""

    seq: Number
    at: ExactMoment
    key_id: str | None = Field(description="id of the API key; null: done by the service itself or its operator")
    action: str
    gallery: str | None
    details: dict[str, Any]
    previous: HexDigest = Field(description="digest of the previous entry; zeros in the first entry")
    digest: HexDigest


class AuditPage(Wire):
    """A page of the audit log, oldest first."""

    items: list[AuditEntry]
    next: Number | None = Field(description="pass as `after` for the next page; null on the last one")


class AuditHead(Wire):
    """The last entry of the audit log. Keep a copy elsewhere to detect changes of the log."""

    seq: Number
    digest: HexDigest


class Rotation(Wire):
    """The rotation of the templates of a gallery, or of one subject of a verify-only gallery."""

    subject: SubjectName | None = Field(default=None, description="for a verify-only gallery; otherwise absent")
    matrix: RotationMatrix = Field(repr=False)


class RekeyRequest(Wire):
    """A change of a gallery's key: the next contract, and the rotations from the present seal to the next."""

    contract: Contract
    replaces: HexDigest = Field(description="digest of the present contract, from whose seal the rotations start")
    rotations: Annotated[list[Rotation], Field(default_factory=list, max_length=MAX_ROTATIONS_A_REQUEST)]


class CloudInfo(Wire):
    """What this cloud runs and what it accepts."""

    service: Literal["patronus-cloud"] = "patronus-cloud"
    version: str
    max_body_bytes: int
    max_templates_a_request: int = MAX_TEMPLATES_A_REQUEST
    max_probes_a_request: int = MAX_PROBES_A_REQUEST
    max_top_k: int = MAX_TOP_K
