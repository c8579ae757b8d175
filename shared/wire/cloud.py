"""Requests and answers of the cloud, which takes templates and never a picture."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from shared.contract import Contract
from shared.envelope import RotationMatrix, TemplateEnvelope
from shared.names import HexDigest, SealedName, StoredName, TemplateId
from shared.strict_types import JsonInteger
from shared.wire.common import (
    FMR_OF_RULE,
    Candidate,
    Cosine,
    Duplicates,
    ExactMoment,
    KeyChange,
    NewThreshold,
    Number,
    Rate,
    Receipt,
    ScoreRule,
    Similarity,
    StrictWire,
    SubjectDetail,
    SubjectInfo,
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
# Names in a request that changes a gallery's key, and on a page of names.
MAX_NAMES_A_REQUEST = 2_000
MAX_NAMES_A_PAGE = 10_000
# Digest of the contract whose key a subject's name in the path is sealed under; the cloud refuses another one with 409.
CONTRACT_HEADER = "Patronus-Contract"
# Of many subjects, in one request and one transaction.
MAX_TEMPLATES_IN_BULK = 2_000


class GallerySpec(Wire):
    """Properties of a new gallery."""

    contract: Contract
    threshold: NewThreshold
    score: SubjectScore = Field(
        default=SubjectScore(rule="mean"),
        description="absent: `mean` with exponent 0, the mean of the cosines. An existing gallery keeps its own",
    )
    sealed_names: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="subjects' names are sealed by the edge. An existing gallery keeps its own"
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

    def untold(self) -> Self:
        """The same for a caller who may not learn which templates agree."""
        templates = [template.model_copy(update={"agrees": None}) for template in self.templates]
        return self.model_copy(update={"templates": templates})


class SubjectTemplates(Wire):
    """Templates of one of many subjects."""

    subject: StoredName
    templates: Annotated[list[NewTemplate], Field(min_length=1, max_length=MAX_TEMPLATES_IN_BULK)]


class BulkEnrollRequest(Wire):
    """Templates of many subjects, up to 2,000 in all: stored in one transaction, all or none."""

    subjects: Annotated[list[SubjectTemplates], Field(min_length=1, max_length=MAX_TEMPLATES_IN_BULK)]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if sum(len(each.templates) for each in self.subjects) > MAX_TEMPLATES_IN_BULK:
            raise ValueError(f"at most {MAX_TEMPLATES_IN_BULK} templates in one request")
        if len({each.subject for each in self.subjects}) < len(self.subjects):
            raise ValueError("each subject is there once")
        return self


class BulkEnrollAnswer(Wire):
    """The enrolled templates of each subject, in the order of the request. They are committed and can be matched."""

    subjects: list[EnrollAnswer]


class MoveRequest(Wire):
    """Gives templates of a subject another name: all of them, or some.

    The subject is erased with its last template.
    """

    to: StoredName
    onto: Literal["new", "existing", "either"] = Field(
        description="`new`: refuse where there is a subject of this name (rename); `existing`: refuse where there is "
        "none (merge)"
    )
    templates: Annotated[list[TemplateId], Field(min_length=1, max_length=MAX_TEMPLATES_A_REQUEST)] | None = Field(
        default=None, description="ids of some of them; absent: all"
    )
    rotation: RotationMatrix | None = Field(
        default=None, repr=False, description="from the one subject's seal to the other's, in a verify-only gallery"
    )


class MoveAnswer(Wire):
    """What was moved. It is committed and can be matched under the other name."""

    templates: int = Field(ge=1, description="how many were moved")
    total: int = Field(ge=1, description="how many living templates the other subject has now")
    emptied: bool = Field(description="whether the subject that they were moved from is gone")
    receipt: Receipt


class StoredSubject(SubjectInfo):
    """A subject as the cloud knows it, and how many templates it has."""

    id: Number = Field(description="the same under each name and key")
    subject: StoredName


class StoredSubjectDetail(SubjectDetail):
    """A subject as the cloud knows it, with its templates."""

    subject: StoredName


class NamesPage(Wire):
    """Subjects of a gallery, in no order that means anything: all, or those that changed since a version."""

    version: Number = Field(description="of the gallery's list of subjects; send as `since` to learn what has changed")
    complete: bool = Field(description="true: all subjects; false: those made, changed or renamed since")
    ids: list[Number] | None = Field(
        description="on the first page, if subjects were removed since: the ids of all that are there; others are gone"
    )
    items: list[StoredSubject]
    next: Number | None = Field(description="send as `after` for the next page; null on the last one")


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


class SubjectReport(StoredSubjectDetail):
    """All that the cloud holds about one subject."""

    vectors: list[TemplateEnvelope] = Field(repr=False, description="the stored templates, in the order of their ids")
    audit: list[AuditEntry] = Field(description="the audit log's entries about it")


class StoredPair(Wire):
    """Two subjects that match each other, as the cloud knows them."""

    subject: StoredName
    other: StoredName
    similarity: Similarity


class StoredDuplicates(Duplicates):
    """The pairs that match, best first."""

    items: list[StoredPair]


class VerifyRequest(Wire):
    """A probe to compare with one subject."""

    probe: TemplateEnvelope


class IdentifyRequest(Wire):
    """Probes to search for in the whole gallery."""

    model_config = ConfigDict(strict=True)

    probes: Annotated[list[TemplateEnvelope], Field(min_length=1, max_length=MAX_PROBES_A_REQUEST)]
    top_k: JsonInteger = Field(default=5, ge=1, le=MAX_TOP_K)


class StoredCandidate(Candidate):
    """A subject whose score reaches the threshold, as the cloud knows it."""

    subject: StoredName


class ProbeResult(Wire):
    """The subjects that one probe matched, best first; none where the decision is `unknown`."""

    decision: Literal["match", "unknown"]
    candidates: list[StoredCandidate]


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

    subject: StoredName | None = Field(default=None, description="for a verify-only gallery; otherwise absent")
    matrix: RotationMatrix = Field(repr=False)


class NextName(Wire):
    """What a subject is called under the next key."""

    subject: StoredName
    sealed: SealedName


class RekeyRequest(Wire):
    """A change of a gallery's key: the next contract, rotations from the present seal to the next, and names."""

    contract: Contract
    replaces: HexDigest = Field(description="digest of the present contract, from whose seal the rotations start")
    rotations: Annotated[list[Rotation], Field(default_factory=list, max_length=MAX_ROTATIONS_A_REQUEST)]
    names: Annotated[list[NextName], Field(default_factory=list, max_length=MAX_NAMES_A_REQUEST)]


class RekeyStatus(KeyChange):
    """The progress of a change of a gallery's key, and what the edge has to send next."""

    subjects: list[StoredName] = Field(
        description="of a verify-only gallery while `staging`: some subjects whose rotations the edge has to send next"
    )
    unnamed: list[StoredName] = Field(
        description="while `staging`: some subjects whose names under the next key the edge has to send next"
    )


class CloudInfo(Wire):
    """What this cloud runs and what it accepts."""

    service: Literal["patronus-cloud"] = "patronus-cloud"
    version: str
    max_body_bytes: int
    max_templates_a_request: int = MAX_TEMPLATES_A_REQUEST
    max_probes_a_request: int = MAX_PROBES_A_REQUEST
    max_top_k: int = MAX_TOP_K
