"""Runs models in ONNX Runtime; the only module that imports it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import SetupError
from shared.security.process_limits import usable_cpus

if TYPE_CHECKING:  # the public library runs graphs, and loads neither the manifest of models nor the settings
    from edge_service.models.store import ModelFile
    from edge_service.settings import InferenceSettings

# ONNX Runtime's wheels since 1.29 write a device id and a database into the user's cache and upload events. Its own
# `disable_telemetry_events()` comes too late, after both were made; this variable, before the import, stops it all.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

# What ONNX Runtime raises for a model that it cannot load or run; the classes share no base but `Exception`.
RUNTIME_ERRORS: Final[tuple[type[Exception], ...]] = tuple(
    found for found in vars(ort_errors).values() if isinstance(found, type) and issubclass(found, Exception)
)

Floats = NDArray[np.float32]
Signature = dict[str, tuple[str, tuple[int | None, ...]]]


@dataclass(frozen=True, slots=True)
class SmallGraphSettings:
    """How a small graph runs; see ``InferenceSettings``."""

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    # A second thread takes longer to wake than such a graph takes to run.
    threads: int = 1
    spinning: bool = False
    arena: bool = False


class OrtSession:
    """A model in ONNX Runtime: the names of its inputs and outputs, and ``run``.

    Args:
        model: the file; the digest of the loaded bytes is checked once more.
        settings: how to run it.

    Raises:
        SetupError: the file is missing or changed, no provider is available, or the runtime refuses the model.
    """

    # Whether its batch is fixed at 1.
    one_at_a_time = False

    def __init__(self, model: ModelFile, settings: InferenceSettings) -> None:
        self._open(model.read(), settings, f"the model {model.entry.name}; run: patronus models fetch")

    def _open(self, data: bytes, settings: InferenceSettings | SmallGraphSettings, what: str) -> None:
        available = ort.get_available_providers()
        providers = [name for name in settings.providers if name in available]
        if not providers:
            raise SetupError(
                f"None of the execution providers {', '.join(settings.providers)} is available here; "
                f"this onnxruntime has {', '.join(available)}."
            )
        options = _options(settings)
        try:
            self._session: Any = ort.InferenceSession(data, sess_options=options, providers=providers)
        except RUNTIME_ERRORS as error:
            raise SetupError(f"ONNX Runtime refuses {what}") from error
        self.input_names: Sequence[str] = tuple(found.name for found in self._session.get_inputs())
        self.output_names: Sequence[str] = tuple(found.name for found in self._session.get_outputs())

    def run(self, inputs: Mapping[str, Floats]) -> list[Floats]:
        """The outputs, in the order of ``output_names``; may be called from several threads."""
        outputs: list[Floats] = self._session.run(None, dict(inputs))
        return outputs

    def rows(self, blob: Floats) -> Floats:
        """The output of a network with one input and one output: a row for each of the input's."""
        name = self.input_names[0]
        if self.one_at_a_time and len(blob) > 1:
            return np.concatenate([self.run({name: blob[at : at + 1]})[0] for at in range(len(blob))])
        return self.run({name: blob})[0]

    def signature(self) -> tuple[Signature, Signature]:
        """Type and shape of each input, and of each output, by name. An axis of any length is None."""
        ports = (self._session.get_inputs(), self._session.get_outputs())
        inputs, outputs = ({port.name: (port.type, _shape(port.shape)) for port in each} for each in ports)
        return inputs, outputs


class OrtGraph(OrtSession):
    """A small graph for a few embeddings at a time, such as a profile's: one thread, on the CPU.

    Args:
        data: the content of the graph's file, whose digest was checked.
        what: its description, for the error.

    Raises:
        SetupError: the runtime refuses it.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._open(data, SmallGraphSettings(), what)


def _shape(axes: Sequence[object]) -> tuple[int | None, ...]:
    return tuple(axis if isinstance(axis, int) else None for axis in axes)


def _options(settings: InferenceSettings | SmallGraphSettings) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads or usable_cpus()
    # These networks are chains: they have no parallel branches.
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_cpu_mem_arena = settings.arena
    options.enable_mem_pattern = settings.arena
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    options.log_severity_level = 3  # errors; warnings are about the graph, not about the work
    return options
