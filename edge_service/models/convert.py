"""Converts a published model for ONNX Runtime: plain float32 weights, free sizes.

Models are published as block-quantized ONNX files and in dlib's own format. Only the set-up imports this module:
services run without `onnx`.

The bytes of the result depend on the source file and the contract alone. The graph is built from the fields named here,
in a fixed order. Each weight is one exact subtraction and one float32 product. Nothing names a tool, a version or a
time. ONNX's protobuf messages have no maps, whose order is the only freedom that protobuf leaves to a writer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edge_service.models.dlib_file import NotDlib, read_network
from edge_service.models.dlib_graph import OPSET, Arrays, build
from edge_service.models.manifest import ConvertedFile, SourceFormat
from shared.errors import SetupError

# Names the converter and its libraries, for the receipt of a converted file.
CONVERTER = f"patronus-fold/1 onnx/{onnx.__version__} numpy/{np.__version__}"
# The first IR version that goes with operator set 21, which every model here uses; newer ones shut out old runtimes.
IR_VERSION = 10


def to_runnable(source: bytes, contract: ConvertedFile, form: SourceFormat = "onnx") -> bytes:
    """Folds constants into float32 weights, and gives the model the contract's shapes.

    Args:
        source: a serialized ONNX model, or a network in dlib's own format.
        contract: the names and shapes that the result must have.
        form: which of the two the source is.

    Returns:
        A serialized ONNX model that passes ONNX's full check; equal arguments give equal bytes.

    Raises:
        SetupError: this conversion does not understand the model.
    """
    try:
        if form == "dlib":
            opsets = [helper.make_opsetid("", OPSET)]
            result = _make_model(contract, *build(read_network(source), contract), opsets)
        else:
            result = _rebuild(onnx.load_model_from_string(source), contract)
        onnx.checker.check_model(result, full_check=True)
    except SetupError:
        raise
    except NotDlib as problem:
        raise SetupError(
            f"The model for {contract.file} is not a dlib network that this conversion understands: {problem}."
        ) from problem
    except Exception as problem:  # onnx and protobuf share no base class, and each version adds to their errors
        raise SetupError(
            f"The model for {contract.file} cannot be converted ({type(problem).__name__}); "
            "install the onnx version that this release names."
        ) from problem
    return bytes(result.SerializeToString(deterministic=True))


def _rebuild(model: onnx.ModelProto, contract: ConvertedFile) -> onnx.ModelProto:
    graph = model.graph
    arrays: Arrays = {tensor.name: np.asarray(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    nodes = [_bare(node) for node in graph.node if not fold(node, arrays)]
    used = dict.fromkeys(name for node in nodes for name in node.input)
    # Quantization left the old weights behind as inputs: some hold an initializer now, and no node reads others.
    inputs = [value.name for value in graph.input if value.name in used and value.name not in arrays]
    _expect_names("input", inputs, [contract.input.name])
    _expect_names("output", [value.name for value in graph.output], [value.name for value in contract.outputs])
    opsets = [helper.make_opsetid(opset.domain, opset.version) for opset in model.opset_import]
    result = _make_model(contract, nodes, {name: arrays[name] for name in used if name in arrays}, opsets)
    if any(tensor.data_type in (TensorProto.INT8, TensorProto.UINT8) for tensor in result.graph.initializer):
        raise SetupError(
            f"The model for {contract.file} keeps quantised weights that this conversion does not understand."
        )
    return result


def _expect_names(what: str, found: list[str], expected: list[str]) -> None:
    if found != expected:
        raise SetupError(
            f"The model's {what} names are {', '.join(found)} where the manifest has {', '.join(expected)}; "
            "use the manifest of the release that you run."
        )


def fold(node: NodeProto, arrays: Arrays) -> bool:
    """Computes a node with constant inputs by ONNX's reference; adds its output to the arrays.

    Args:
        node: of any kind; only ``DequantizeLinear`` and ``Reshape`` are computed.
        arrays: constants by name.

    Returns:
        Whether it was computed.

    Raises:
        SetupError: the weights are not 8-bit integers with float32 scales.
    """
    if node.op_type not in ("DequantizeLinear", "Reshape") or any(name not in arrays for name in node.input):
        return False
    inputs = {name: arrays[name] for name in node.input}
    if node.op_type == "DequantizeLinear":
        data, scale = (arrays[name].dtype for name in node.input[:2])
        # The difference of two 8-bit numbers is exact in float32, so the product is the one rounding.
        if data not in (np.int8, np.uint8) or scale != np.float32:
            raise SetupError(
                f"The model holds weights of type {data} with scales of type {scale}, "
                "which this conversion does not understand."
            )
    outputs: Any = ReferenceEvaluator(node).run(None, inputs)
    (arrays[node.output[0]],) = outputs
    return True


def _bare(node: NodeProto) -> NodeProto:
    """Copies the node without its notes and metadata."""
    bare = NodeProto(op_type=node.op_type, domain=node.domain, name=node.name, input=node.input, output=node.output)
    for attribute in node.attribute:
        copy = bare.attribute.add()
        copy.CopyFrom(attribute)
        copy.ClearField("doc_string")
    return bare


def _make_model(
    contract: ConvertedFile, nodes: list[NodeProto], weights: Arrays, opsets: list[onnx.OperatorSetIdProto]
) -> onnx.ModelProto:
    """Makes a model of nodes in their order, with the contract's input and outputs."""

    def value(name: str, shape: tuple[int | str, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        contract.file.removesuffix(".onnx"),
        [value(contract.input.name, contract.input.shape)],
        [value(output.name, output.shape) for output in contract.outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets)
