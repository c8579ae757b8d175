"""Answers that both services give."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from shared.contract import Contract
from shared.names import GalleryName, HexDigest, SubjectName, TemplateId
from shared.strict_types import PLAIN_DIGITS, JsonInteger, Moment

Item = TypeVar("Item")

Cosine = Annotated[float, Field(ge=-1, le=1, description="a cosine, not a distance: larger is more similar")]
Similarity = Annotated[
    float,
    Field(ge=-1, le=1, description="score by the gallery's rule, for one template the cosine: larger is more similar"),
]
Rate = Annotated[float, Field(ge=0, le=1)]
# Nobody has measured a false match rate below this and above 0: it takes a million million comparisons.
MIN_RATE: Final = 1e-12
# Of an answer in JSON. The largest honest one is the report of a subject with 1,000 templates of 4,096 values: 90 MB.
MAX_ANSWER_BYTES = 128 * 1024 * 1024
MAX_AGE: Final = 100 * 365 * 86_400
# RFC 8259, section 6: larger integers are not the same to all that read JSON.
MAX_IN_JSON: Final = 2**53 - 1
# Of an entry in the audit log.
Number = Annotated[int, Field(ge=0, le=2**63 - 1)]
# The same in a path or a query.
NumberInText = Annotated[int, Field(ge=0, le=2**63 - 1), PLAIN_DIGITS]


def moment_text(moment: datetime) -> str:
    """An aware moment in its one written form: ``2025-01-31T08:09:10.000000Z``."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


# A moment whose text is part of what a digest is over.
ExactMoment = Annotated[Moment, PlainSerializer(moment_text, return_type=str, when_used="json")]


def _without_example(schema: dict[str, Any]) -> None:
    """An OpenAPI document has no examples for Python."""
    if "description" in schema:
        schema["description"] = schema["description"].partition("\n\nExample:")[0]


class Wire(BaseModel):
    """Base of all wire models: unknown members are refused, values are not coerced silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra=_without_example)


class StrictWire(Wire):
    """Base of what is sent to a service: no value is coerced at all."""

    model_config = ConfigDict(strict=True)


class Threshold(StrictWire):
    """The threshold of decisions, and its false match rate.

    Example:
        >>> from patronus_face import Threshold
        >>> Threshold(cosine=0.45, fmr=0.0001)  # of a gallery: client.put_gallery("door", threshold=…)
        Threshold(cosine=0.45, fmr=0.0001)
    """

    cosine: Annotated[float, Field(gt=0, lt=1, description="accept when the cosine is at least this")]
    fmr: Rate = Field(
        description="false match rate of one comparison at this threshold: of a default, as measured on adults of "
        "Labeled Faces in the Wild; otherwise as stated by whoever created the gallery or changed its threshold"
    )


def _no_tiny_rate(rate: float) -> float:
    if 0 < rate < MIN_RATE:
        raise ValueError(f"a rate is 0 or at least {MIN_RATE:g}")
    return abs(rate)  # 0, where it was -0


class NewThreshold(Threshold):
    """A threshold to give to a gallery."""

    cosine: Annotated[float, Field(ge=0.0001, le=0.9999, description="accept when the cosine is at least this")]
    fmr: Annotated[float, AfterValidator(_no_tiny_rate)] = Field(
        ge=0,
        le=1,
        description="false match rate of one comparison at this threshold, as measured for the embedder",
        json_schema_extra={"anyOf": [{"const": 0}, {"minimum": MIN_RATE}]},
    )


# How a subject with several templates is compared: by the weighted mean of them, or by the best one alone.
ScoreRule = Literal["mean", "best"]
MAX_EXPONENTS: Final = 32


class SubjectScore(StrictWire):
    """How a probe p is compared with a subject of several templates.

    ``mean``: the score is <p, m> / |m|^q, with m the weighted mean of the subject's templates. q is calibrated so that
    a threshold has the same false match rate however many templates a subject has. ``best``: the score is the
    cosine of the most similar template, and the false match rate grows with their number.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"properties": {"rule": {"const": "mean"}}}, {"properties": {"exponents": {"maxItems": 0}}}]
        }
    )

    rule: ScoreRule
    exponents: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(max_length=MAX_EXPONENTS)] = Field(
        default=[], description="q for 2, 3, 4 … templates; the last one holds for more, and none is 0. Of `mean` alone"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.rule == "best" and self.exponents:
            raise ValueError("exponents belong to the rule `mean`")
        return self

    def exponent(self, templates: int) -> float:
        """q for a subject of so many templates, 1 or more."""
        return self.exponents[min(templates - 2, len(self.exponents) - 1)] if self.exponents and templates > 1 else 0.0


BEST: Final = SubjectScore(rule="best")


class GalleryInfo(Wire):
    """A gallery: a set of subjects with one contract and one threshold."""

    gallery: GalleryName
    contract: Contract
    contract_digest: str
    threshold: Threshold
    score: SubjectScore
    sealed_names: bool = Field(
        default=False, description="whether the cloud holds subjects' names sealed; false in galleries made before"
    )
    subjects: int = Field(ge=0)
    templates: int = Field(ge=0)
    max_age_seconds: int | None = Field(default=None, ge=1, le=MAX_AGE, description="null: templates never expire")
    created_at: Moment


class Retention(StrictWire):
    """How long a gallery's templates are kept."""

    max_age_seconds: JsonInteger = Field(
        ge=1, le=MAX_AGE, description="age in seconds from which a template matches nobody and is erased"
    )


class TemplateInfo(Wire):
    """A stored template, without its vector, which no operation returns."""

    id: TemplateId
    created_at: Moment


class SubjectInfo(Wire):
    """A subject and how many templates it has."""

    subject: SubjectName
    templates: int = Field(ge=0)
    created_at: Moment
    expires_at: Moment | None = Field(default=None, description="its own expiry; null: only by the gallery's age")


class SubjectDetail(Wire):
    """A subject with its templates."""

    subject: SubjectName
    created_at: Moment
    expires_at: Moment | None = Field(default=None, description="its own expiry; null: only by the gallery's age")
    templates: list[TemplateInfo]


class Expiry(StrictWire):
    """When a subject of one's own expiry matches no more and is erased."""

    model_config = ConfigDict(strict=False)

    expires_at: Moment = Field(description="a moment to come, within 100 years, as RFC 3339 has it, with its zone")


class FindDuplicates(StrictWire):
    """Which subjects of a gallery to compare with all others."""

    after: JsonInteger = Field(default=0, ge=0, le=MAX_IN_JSON, description="`next` of the previous page")
    limit: JsonInteger = Field(default=100, ge=1, le=500, description="subjects to compare, at most")
    min_similarity: Cosine | None = Field(
        default=None, description="least score of a pair, over the gallery's threshold; absent: the threshold"
    )


class Duplicates(Wire):
    """One page of subjects, compared with all others."""

    compared: int = Field(ge=0, description="subjects that were compared with all others")
    threshold: Cosine = Field(description="of the gallery")
    next: Number | None = Field(description="send as `after` to compare the next ones; null: these were the last")


class Page(Wire, Generic[Item]):
    """One page of a listing, in the order of names."""

    items: list[Item]
    next: str | None = Field(description="send as `after` to get the next page; null on the last page")


class Receipt(Wire):
    """An entry of the cloud's audit log. Keep it as proof of what was done."""

    id: Number
    at: ExactMoment
    digest: HexDigest


class Erased(Wire):
    """What was erased. The erasure is committed: nothing erased can be matched any more."""

    subjects: int = Field(ge=0)
    templates: int = Field(ge=0)
    receipt: Receipt
    pending: list[str] = Field(description="places that may still hold erased bytes; see `GET …/erasures/{receipt}`")


class Erasure(Wire):
    """The state of an erasure."""

    receipt: Receipt
    action: str
    subjects: int = Field(ge=0)
    templates: int = Field(ge=0)
    status: Literal["done", "pending"]
    pending: list[str] = Field(description="places that may still hold erased bytes")
    due_by: Moment = Field(description="the operator is alerted if anything is still pending at this time")


class KeyChange(Wire):
    """The progress of a change of a gallery's key."""

    gallery: GalleryName
    contract: Contract = Field(description="the contract under which the gallery matches now")
    contract_digest: str
    next_contract: Contract | None = Field(description="the contract after the change; null: none is in progress")
    state: Literal["settled", "staging", "settling"] = Field(
        description="`staging`: the gallery matches under the old key while templates are written under the new one; "
        "`settling`: it matches under the new key while the old templates are overwritten; `settled`: no change"
    )
    working: bool = Field(
        description="whether the cloud is working on it; if false while `staging`, repeat `POST …/rekey` to continue"
    )
    templates: int = Field(ge=0)
    left: int = Field(ge=0, description="templates still to be written (`staging`) or overwritten (`settling`)")


FMR_OF_RULE: Final = (
    "false match rate at the threshold, as stated with it. Under the rule `best` it is an upper "
    "bound for as many templates as the subject has (on average, for an identification)"
)


class VerifyAnswer(Wire):
    """The answer of a 1:1 comparison."""

    decision: Literal["match", "no_match"]
    similarity: Similarity
    threshold: Cosine
    score_rule: ScoreRule
    fmr_at_threshold: Rate = Field(description=FMR_OF_RULE)


class Candidate(Wire):
    """A subject whose score reaches the threshold."""

    subject: SubjectName
    similarity: Similarity


class Problem(BaseModel):
    """An error, as application/problem+json (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`urn:patronus:problem:` and a stable word, for programs")
    title: str
    status: int
    detail: str = Field(description="what is wrong and how to correct it")
    request_id: str
    reason: str | None = Field(default=None, description="a stable word that says more than `type`, where there is one")


class Health(Wire):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Readiness(Wire):
    """Whether the service can do its work now, with the result of each check."""

    status: Literal["ready", "not_ready"]
    checks: dict[str, bool]
