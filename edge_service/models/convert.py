"""Makes a published model into one that ONNX Runtime runs: plain float32 weights, free sizes.

Published are block-quantised ONNX files, and dlib's own format.

Only `onnx` is needed for this, and only at set-up, so nothing but `to_runnable` imports it.

The bytes of the result depend on the source file and the contract alone. The graph is built anew from the fields
named here, in a fixed order; weights are computed by NumPy as one exact subtraction and one float32 product each;
nothing that names a tool, a version or a time is kept; and ONNX's protobuf messages have no maps, whose order is the
only freedom that protobuf leaves to a writer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_service.models import dlib_graph
from edge_service.models.dlib_file import NotDlib, read_network
from edge_service.models.manifest import ConvertedFile, SourceFormat
from edge_service.models.onnx_parts import Arrays, make_model
from shared.errors import SetupError

if TYPE_CHECKING:
    import onnx

CONVERTER = "patronus-fold/1"


def to_runnable(source: bytes, contract: ConvertedFile, form: SourceFormat = "onnx") -> bytes:
    """Fold constants into float32 weights, drop what nothing uses, and give input and outputs the contract's shapes.

    Args:
        source: a serialized ONNX model, or a network in dlib's own format.
        contract: the names and shapes that the result must have.
        form: which of the two the source is.

    Returns:
        A serialized ONNX model that passes ONNX's full check; equal arguments give equal bytes.

    Raises:
        SetupError: onnx is not installed, or the model is not one that this conversion understands.
    """
    try:
        import onnx  # noqa: PLC0415  # set-up only: services run without it
    except ImportError as problem:
        raise SetupError(
            "Converting a model needs the package onnx; install this project with its extra 'models'.",
            reason="onnx-missing",
        ) from problem
    try:
        if form == "dlib":
            result = dlib_graph.build(read_network(source), contract)
        else:
            result = _rebuild(onnx.load_model_from_string(source), contract)
        onnx.checker.check_model(result, full_check=True)
    except SetupError:
        raise
    except NotDlib as problem:
        raise SetupError(
            f"The model for {contract.file} is not a dlib network that this conversion understands: {problem}.",
            reason="conversion-failed",
        ) from problem
    except Exception as problem:  # onnx and protobuf share no base class, and each version adds to their errors
        raise SetupError(
            f"The model for {contract.file} cannot be converted ({type(problem).__name__}); "
            "install the onnx version that this release names.",
            reason="conversion-failed",
        ) from problem
    return bytes(result.SerializeToString(deterministic=True))


def converter_version() -> str:
    """What made a converted file, for its receipt."""
    import onnx  # noqa: PLC0415

    return f"{CONVERTER} onnx/{onnx.__version__} numpy/{np.__version__}"


def _rebuild(model: onnx.ModelProto, contract: ConvertedFile) -> onnx.ModelProto:
    from onnx import TensorProto, helper  # noqa: PLC0415

    graph = model.graph
    arrays: Arrays = {tensor.name: _to_array(tensor) for tensor in graph.initializer}
    nodes = [_bare(node) for node in graph.node if not _fold(node, arrays)]
    used = dict.fromkeys(name for node in nodes for name in node.input)
    # Quantising left the old weights behind as inputs: some hold an initializer now, some are read by no node at all.
    inputs = [value.name for value in graph.input if value.name in used and value.name not in arrays]
    _expect_names("input", inputs, [contract.input.name])
    _expect_names("output", [value.name for value in graph.output], [value.name for value in contract.outputs])
    opsets = [helper.make_opsetid(opset.domain, opset.version) for opset in model.opset_import]
    result = make_model(contract, nodes, {name: arrays[name] for name in used if name in arrays}, opsets)
    if any(tensor.data_type in (TensorProto.INT8, TensorProto.UINT8) for tensor in result.graph.initializer):
        raise SetupError(
            f"The model for {contract.file} keeps quantised weights that this conversion does not understand.",
            reason="conversion-failed",
        )
    return result


def _expect_names(what: str, found: list[str], expected: list[str]) -> None:
    if found != expected:
        raise SetupError(
            f"The model's {what} names are {', '.join(found)} where the manifest has {', '.join(expected)}; "
            "use the manifest of the release that you run.",
            reason="contract-differs",
        )


def _fold(node: onnx.NodeProto, arrays: Arrays) -> bool:
    """Compute a node whose inputs are all constant and add its result to `arrays`; say whether that was done."""
    if node.op_type not in ("DequantizeLinear", "Reshape") or any(name not in arrays for name in node.input):
        return False
    values = [arrays[name] for name in node.input]
    # The attributes of both operators are whole numbers.
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Reshape":
        arrays[node.output[0]] = _reshape(values[0], values[1], attributes.get("allowzero", 0))
    else:
        zero = values[2] if len(values) > 2 else np.zeros_like(values[1], dtype=values[0].dtype)
        axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
        arrays[node.output[0]] = dequantize(values[0], values[1], zero, axis, block)
    return True


def _reshape(data: NDArray[Any], shape: NDArray[Any], allow_zero: int) -> NDArray[Any]:
    """ONNX's Reshape: a 0 means the length that was there, unless `allow_zero` is set."""
    lengths = [int(data.shape[at]) if n == 0 and not allow_zero else int(n) for at, n in enumerate(shape)]
    return data.reshape(lengths)


def dequantize(
    data: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], axis: int, block: int
) -> NDArray[np.float32]:
    """ONNX's DequantizeLinear (operator set 21): (data - zero) * scale, a tensor, axis or block at a time.

    Args:
        data: int8 or uint8, any shape.
        scale: float32; a scalar, one value a step along `axis`, or one a block of `block` steps along `axis`.
        zero: of data's type and scale's shape.
        axis: the axis that scales run along; negative counts from the end.
        block: steps a block, 0 for none.

    Returns:
        float32, of data's shape.

    Raises:
        SetupError: the types are none of the above.
    """
    if data.dtype not in (np.int8, np.uint8) or scale.dtype != np.float32:
        raise SetupError(
            f"The model holds weights of type {data.dtype} with scales of type {scale.dtype}, "
            "which this conversion does not understand.",
            reason="conversion-failed",
        )

    def spread(values: NDArray[Any]) -> NDArray[Any]:
        if values.ndim == 0 or values.size == 1:
            return values.reshape(())
        if block == 0:
            return values.reshape([-1 if at == axis % data.ndim else 1 for at in range(data.ndim)])
        # The last block may be shorter than the rest.
        return np.repeat(values, block, axis=axis).take(range(data.shape[axis]), axis=axis)

    # The difference of two 8-bit numbers is exact in int16 and in float32, so the product is the one rounding.
    exact = data.astype(np.int16) - spread(zero).astype(np.int16)
    product: NDArray[np.float32] = np.multiply(exact, spread(scale), dtype=np.float32)
    return product


def _bare(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node without its notes and metadata."""
    from onnx import NodeProto  # noqa: PLC0415

    bare = NodeProto(op_type=node.op_type, domain=node.domain, name=node.name, input=node.input, output=node.output)
    for attribute in node.attribute:
        copy = bare.attribute.add()
        copy.CopyFrom(attribute)
        copy.ClearField("doc_string")
    return bare


def _to_array(tensor: onnx.TensorProto) -> NDArray[Any]:
    from onnx import numpy_helper  # noqa: PLC0415

    return np.asarray(numpy_helper.to_array(tensor))
