"""The Patronus network as ONNX, written node by node: no tracer, the same bytes on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lab.defence.network import TINY, PatronusNetwork

OPSET, IR_VERSION = 17, 8


class Graph:
    """Nodes and constants under way."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names = 0

    def constant(self, value: NDArray[np.generic] | float, name: str | None = None) -> str:
        """A float32 constant, or int64 where it is an array of integers."""
        array = np.asarray(value)
        array = array if array.dtype == np.int64 else array.astype(np.float32)
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """A node with one output, whose name is returned."""
        self._names += 1
        out = out or f"v{self._names}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def unit(self, rows: str) -> str:
        """Rows over their lengths."""
        length = self.node("ReduceL2", rows, axes=[1], keepdims=1)
        return self.node("Div", rows, self.node("Max", length, self.constant(TINY)))


def to_onnx(network: PatronusNetwork) -> bytes:
    """The network as a serialised ONNX model.

    Inputs ``x`` (n, d) raw embeddings, ``seed`` (n, s) standard normal, ``phi_limit`` (n,) radians, ``seal`` (d, d)
    orthogonal. Outputs ``template`` (n, d) unit rows, ``angle`` (n,) radians. All float32.
    """
    size = network.size
    g = Graph()
    value = {
        name: tensor.detach().cpu().double().numpy()
        for name, tensor in {**dict(network.named_parameters()), **dict(network.named_buffers())}.items()
    }

    erased = g.unit("x")
    if size.erases:
        erased = g.unit(g.node("MatMul", erased, g.constant(value["eraser"].T, "eraser")))

    nearest = g.node("MatMul", erased, g.constant(value["cohort"].T, "cohort"))
    nearest = g.node("ReduceMax", nearest, axes=[1], keepdims=1)
    nearest = g.node("Clip", nearest, g.constant(-1.0), g.constant(1.0))
    margin = g.node("Sub", g.node("Acos", nearest), g.constant(np.arccos(value["margin_from"]), "margin_from"))
    limit = g.node("Mul", margin, g.constant(value["slope"], "slope"))
    limit = g.node("Clip", limit, g.constant(0.0), g.constant(value["phi_max"], "phi_max"))
    caller = g.node("Unsqueeze", "phi_limit", g.constant(np.array([1], dtype=np.int64)))
    limit = g.node("Min", limit, g.node("Max", caller, g.constant(0.0)))

    scaled = g.node("Mul", erased, g.constant(float(size.dim**0.5)))
    hidden = _linear(g, g.node("Concat", scaled, "seed", axis=1), value, "enter")
    for block in range(size.blocks):
        name = f"middle.{block}"
        scale, bias = (g.constant(value[f"{name}.norm.{part}"]) for part in ("weight", "bias"))
        inner = _linear(g, g.node("LayerNormalization", hidden, scale, bias, axis=-1), value, f"{name}.first")
        inner = g.node("Mul", inner, g.node("Sigmoid", inner))
        hidden = g.node("Add", hidden, _linear(g, inner, value, f"{name}.second"))
    # The last layer and the spread of directions are one matrix.
    shaped = {
        "leave.weight": value["shape"].T @ value["leave.weight"],
        "leave.bias": value["leave.bias"] @ value["shape"],
    }
    linear = network.linear().detach().cpu().double().numpy().T
    coherent = g.constant(linear if size.rotates else linear @ value["shape"], "linear")
    raw = g.node("Add", g.node("MatMul", scaled, coherent), _linear(g, hidden, shaped, "leave"))
    along = g.node("ReduceSum", g.node("Mul", raw, erased), g.constant(np.array([1], dtype=np.int64)), keepdims=1)
    direction = g.unit(g.node("Sub", raw, g.node("Mul", along, erased)))
    angle = g.node("Mul", limit, g.node("Sigmoid", _linear(g, hidden, value, "depth")))
    plain = g.node("Mul", g.node("Cos", angle), erased)
    plain = g.unit(g.node("Add", plain, g.node("Mul", g.node("Sin", angle), direction)))
    g.node("MatMul", plain, g.node("Transpose", "seal", perm=[1, 0]), out="template")
    g.node("Squeeze", angle, g.constant(np.array([1], dtype=np.int64)), out="angle")

    def tensor(name: str, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

    graph = helper.make_graph(
        g.nodes,
        "patronus",
        [
            tensor("x", "n", size.dim),
            tensor("seed", "n", size.seed_dim),
            tensor("phi_limit", "n"),
            tensor("seal", size.dim, size.dim),
        ],
        [tensor("template", "n", size.dim), tensor("angle", "n")],
        g.constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, producer_name="patronus", opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _linear(g: Graph, rows: str, value: dict[str, NDArray[np.float64]], name: str) -> str:
    weight = g.constant(value[f"{name}.weight"].T, f"{name}.weight")
    return g.node("Gemm", rows, weight, g.constant(value[f"{name}.bias"], f"{name}.bias"))
