"""A torch embedder gives the embeddings that ONNX Runtime gives, and the gradients that differences give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from lab.data.embedders import open_encoder, open_file
from lab.data.onnx_operators import Affine, Slope
from lab.data.torch_embedder import TorchEmbedder, check_parity, load_torch_embedder, read_onnx
from shared.errors import SetupError

NONE = np.empty((0, 112, 112, 3), np.uint8)
FACES = np.random.default_rng(1).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)


class Net:
    """A graph under way: input ``x`` (n, 3, 112, 112), weights drawn at random."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(3)
        self.at = "x"

    def weight(self, *shape: int, positive: bool = False) -> str:
        values = self.random.normal(size=shape) * (0.3 if len(shape) > 1 else 1.0)
        return self.constant((np.abs(values) + 0.5 if positive else values).astype(np.float32))

    def constant(self, values: object) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def add(self, kind: str, *inputs: str, first: str | None = None, **attributes: object) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [first or self.at, *inputs], [out], **attributes))
        self.at = out
        return out

    def conv(self, outs: int, ins: int, **attributes: object) -> str:
        attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]} | attributes
        return self.add("Conv", self.weight(outs, ins, 3, 3), self.weight(outs), **attributes)

    def norm(self, channels: int) -> str:
        positive = self.weight(channels, positive=True)
        return self.add("BatchNormalization", *(self.weight(channels) for _ in range(3)), positive)

    def save(self, folder: Path, opset: int = 17) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 112, 112])],
            [helper.make_tensor_value_info(self.at, TensorProto.FLOAT, None)],
            self.weights,
        )
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
        path = folder / "net.onnx"
        onnx.save(model, path)
        return path


def _normalised(net: Net) -> None:
    net.add("Sub", net.constant(np.float32([127.5])))
    net.add("Mul", net.constant(np.float32(1 / 64).reshape(1)))


def _end(net: Net, channels: int) -> None:
    net.add("GlobalAveragePool")
    net.add("Flatten")
    net.add("Gemm", net.weight(5, channels), net.weight(5), transB=1)
    net.norm(5)


def _residual(net: Net) -> None:
    start = net.conv(4, 3, strides=[4, 4])
    net.norm(4)
    start = net.add("PRelu", net.weight(4, 1, 1))
    net.conv(4, 1, group=4)
    net.norm(4)
    net.add("Add", start)
    net.add("Relu")
    _end(net, 4)


def _shared_convolution(net: Net) -> None:
    """What reads a convolution twice must not be folded into it."""
    both = net.conv(4, 3, strides=[4, 4])
    net.norm(4)
    net.add("Mul", both)
    _end(net, 4)


def _uneven(net: Net) -> None:
    net.conv(4, 3, pads=[0, 0, 1, 1], strides=[2, 2])
    net.add("Clip", net.constant(np.float32(0)), net.constant(np.float32(6)))
    net.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2])
    net.add("AveragePool", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1])
    net.norm(4)
    net.conv(6, 4, pads=[0, 0, 0, 0])
    net.norm(6)
    net.add("LeakyRelu", alpha=0.2)
    net.add("Pad", net.constant(np.int64([0, 0, 0, 0, 0, 2, 1, 1])))
    _end(net, 8)


def _two_ways(net: Net) -> None:
    start = net.conv(4, 3, strides=[8, 8])
    net.add("Sigmoid")
    first = net.add("Div", net.constant(np.float32([2])))
    net.add("Sub", first, first=start)
    net.add("Concat", first, axis=1)
    net.add("HardSwish")
    net.norm(8)  # folded through the flattening into the matrix
    net.add("Dropout")
    net.add("Reshape", net.constant(np.int64([0, -1])))
    net.add("MatMul", net.weight(8 * 14 * 14, 5))
    net.add("Add", net.weight(5))
    net.add("Tanh")
    net.add("LpNormalization", axis=1)


def _means(net: Net) -> None:
    net.conv(4, 3, strides=[4, 4])
    net.add("ReduceMean", axes=[2, 3], keepdims=1)
    net.add("Squeeze", net.constant(np.int64([2, 3])))
    start = net.add("Gemm", net.weight(4, 5), net.constant(np.float32([0.5])), alpha=0.5, beta=2.0)
    net.add("ReduceL2", axes=[1], keepdims=1)
    net.add("Div", net.at, first=start)


@pytest.mark.parametrize("build", [_residual, _shared_convolution, _uneven, _two_ways, _means])
def test_every_operator_gives_what_onnx_runtime_gives(build: object, tmp_path: Path) -> None:
    net = Net()
    _normalised(net)
    build(net)  # type: ignore[operator]
    path = net.save(tmp_path)
    torch_embedder = load_torch_embedder(path, faces=FACES)
    assert isinstance(torch_embedder, TorchEmbedder)
    assert check_parity(torch_embedder, open_file(path), FACES) < 1e-5


def test_sface_keeps_only_the_normalization_that_cannot_be_folded(models_folder: Path) -> None:
    path = models_folder / "sface_2021dec.onnx"
    torch_embedder = load_torch_embedder(path, faces=NONE)
    assert isinstance(torch_embedder, TorchEmbedder)
    kinds = [type(operation) for operation in torch_embedder.network.children()]
    assert kinds.count(nn.Conv2d) == kinds.count(Slope) == 27
    assert kinds.count(Affine) == 2  # of the input, and between the last slopes and the matrix
    assert kinds.count(nn.Linear) == 1
    assert len(kinds) == 27 * 2 + 2 + 1
    assert torch_embedder(torch.zeros(2, 3, 112, 112)).shape == (2, 128)


def test_a_checkout_compares_on_its_public_faces(models_folder: Path, tmp_path: Path) -> None:
    load_torch_embedder(models_folder / "sface_2021dec.onnx", cache=tmp_path)
    assert list((tmp_path / "images").glob("*.rgb"))


@pytest.mark.slow(reason="float64 through the whole of SFace")
def test_the_gradient_is_the_slope_of_the_embedding(models_folder: Path) -> None:
    torch_embedder = TorchEmbedder(read_onnx((models_folder / "sface_2021dec.onnx").read_bytes(), "sface")).double()
    random = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 112, 112, generator=random, dtype=torch.float64) * 255
    toward = torch.randn(1, 3, 112, 112, generator=random, dtype=torch.float64)
    weights = torch.randn(128, generator=random, dtype=torch.float64)
    x.requires_grad_()
    (torch_embedder(x) @ weights).sum().backward()
    assert x.grad is not None
    step = 1e-5
    with torch.no_grad():
        slope = ((torch_embedder(x + step * toward) - torch_embedder(x - step * toward)) @ weights).item() / (2 * step)
    assert (x.grad * toward).sum().item() == pytest.approx(slope, rel=1e-4)


def test_the_gradient_of_slopes_is_right_at_every_value() -> None:
    slopes = torch.tensor([0.25, -0.5, 1.5], dtype=torch.float64)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(Slope(slopes), (x,))
    assert torch.autograd.gradcheck(Slope(slopes), (torch.randn(4, 3, dtype=torch.float64, requires_grad=True),))


def test_nothing_but_the_input_gets_a_gradient(models_folder: Path) -> None:
    torch_embedder = load_torch_embedder(models_folder / "sface_2021dec.onnx", faces=NONE)
    assert not any(parameter.requires_grad for parameter in torch_embedder.parameters())
    assert not torch_embedder.training


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    net = Net()
    net.conv(4, 3)
    net.add("Erf")
    with pytest.raises(SetupError, match=r"net\.onnx has the operator Erf") as found:
        load_torch_embedder(net.save(tmp_path), faces=NONE)
    assert found.value.extra["operator"] == "Erf"


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("Conv", {"auto_pad": "SAME_UPPER"}),
        ("Reshape", {}),
        ("MaxPool", {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
        ("Flatten", {"axis": 2}),
        ("Concat", {"axis": 0}),
        ("Relu", {}),
    ],
)
def test_a_use_of_an_operator_that_is_not_known_is_named(
    kind: str, attributes: dict[str, object], tmp_path: Path
) -> None:
    net = Net()
    inputs = {"Conv": [net.weight(4, 3, 3, 3)], "Reshape": [net.constant(np.int64([1, -1]))]}.get(kind, [])
    net.add(kind, *inputs, first=net.weight(4, 4) if kind == "Relu" else None, **attributes)
    with pytest.raises(SetupError, match=f"uses the operator {kind} "):
        load_torch_embedder(net.save(tmp_path), faces=NONE)


def test_a_copy_that_differs_is_refused(tmp_path: Path) -> None:
    net = Net()
    _residual(net)
    file = open_file(net.save(tmp_path))
    torch_embedder = TorchEmbedder(read_onnx(file.data, "net"))
    convolution = next(operation for operation in torch_embedder.modules() if isinstance(operation, nn.Conv2d))
    convolution.weight[0] *= 1.5
    with pytest.raises(SetupError, match="gives other embeddings"):
        check_parity(torch_embedder, file, FACES)
    convolution.weight[0] = torch.nan
    with pytest.raises(SetupError, match="gives other embeddings"):
        check_parity(torch_embedder, file, FACES)


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read"):
        load_torch_embedder(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(SetupError, match="not an ONNX model"):
        load_torch_embedder(tmp_path / "text.onnx")


@pytest.mark.parametrize("alignment", ["arcface-5-points-112", "dlib-face-chip-150-0.25"])
def test_the_copy_prepares_its_input_as_the_embedder_does(alignment: str, tmp_path: Path) -> None:
    net = Net()
    _residual(net)
    path = net.save(tmp_path)
    result = {"alignment": alignment, "side": 112, "channels": "BGR", "mean": [120, 110, 100], "scale": 0.01, "dim": 5}
    path.with_suffix(".embedder.json").write_text(json.dumps(result))
    expected = open_encoder(path).embed(FACES)
    torch_embedder = load_torch_embedder(path, faces=FACES)
    with torch.no_grad():
        found = torch_embedder(torch.from_numpy(FACES.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    # The edge rounds a face that it moves onto another template to whole grey levels.
    assert np.abs(found - expected).max() < (1e-4 if alignment.startswith("arcface") else 0.02) * np.abs(expected).max()
