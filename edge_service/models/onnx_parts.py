"""The pieces that every converted model is put together from, so that equal sources give equal bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_service.models.manifest import ConvertedFile, Dimension

if TYPE_CHECKING:
    import onnx

# The first IR version that goes with operator set 21, which every model here uses; newer ones shut out old runtimes.
IR_VERSION = 10

Arrays = dict[str, NDArray[Any]]


def make_model(
    contract: ConvertedFile, nodes: list[onnx.NodeProto], weights: Arrays, opsets: list[onnx.OperatorSetIdProto]
) -> onnx.ModelProto:
    """A model with the contract's input and outputs, and nothing that names a tool, a version or a time.

    Args:
        contract: names and shapes.
        nodes: in the order in which they run.
        weights: by name, in the order in which they are written.
        opsets: the operator sets that the nodes are of.
    """
    from onnx import helper  # noqa: PLC0415  # set-up only: services run without it

    graph = helper.make_graph(
        nodes,
        contract.file.removesuffix(".onnx"),
        [_value(contract.input.name, contract.input.shape)],
        [_value(output.name, output.shape) for output in contract.outputs],
        [_tensor(name, array) for name, array in weights.items()],
    )
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets)


def _tensor(name: str, array: NDArray[Any]) -> onnx.TensorProto:
    from onnx import TensorProto, helper  # noqa: PLC0415

    little_endian = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return TensorProto(name=name, data_type=kind, dims=array.shape, raw_data=little_endian.tobytes())


def _value(name: str, shape: tuple[Dimension, ...]) -> onnx.ValueInfoProto:
    from onnx import TensorProto, helper  # noqa: PLC0415

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
