"""The network in torch and its ONNX are one function, and neither turns further than it says or may."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import nn

from edge_service.vision.sessions import OrtGraph
from lab.data.images import FaceImages
from lab.data.splits import TEST, Labelled
from lab.defence.network import NetworkShape, PatronusNetwork
from lab.defence.protection import gaussian, protect, rotated_back
from lab.export.export_profile import check_parity
from lab.export.onnx_export import to_onnx
from shared.errors import SetupError
from tests.lab.defence.geometry import angles
from tests.lab.defence.margin_limit import margin_limit

Rows = NDArray[np.float32]
DIM, GONE, TAU, PHI_MAX = 24, 6, 0.3, 0.6
# float32 rows and scores are off by a few 1e-7.
ROUNDING = 3e-6
STEEP = 1e4


def _network(
    *, erases: bool = True, rotates: bool = True, dim: int = DIM, width: int = 48, slope: float = 1.0, seed: int = 0
) -> PatronusNetwork:
    """Random weights in every place, those included that start at zero."""
    random = torch.Generator().manual_seed(seed)
    network = PatronusNetwork(NetworkShape(dim, seed_dim=5, width=width, erases=erases, rotates=rotates, cohort=7))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5, generator=random)
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=random))[0][:, :GONE]
    shrunk = torch.diag(torch.rand(dim, generator=random) + 0.5)
    network.eraser.copy_((torch.eye(dim) - basis @ basis.T) @ shrunk)
    network.cohort.copy_(nn.functional.normalize(torch.randn(7, dim, generator=random), dim=1))
    spread = torch.randn(dim, dim, generator=random) * 0.2
    network.shape.copy_(torch.eye(dim) + spread + spread.T)
    for buffer, value in ((network.margin_from, TAU), (network.slope, slope), (network.phi_max, PHI_MAX)):
        buffer.fill_(value)
    return network.eval().requires_grad_(False)


def _inputs(network: PatronusNetwork, count: int, limit: float | Rows, seed: int = 1) -> dict[str, Rows]:
    random, dim = np.random.default_rng(seed), network.size.dim
    lengths = 10 ** random.uniform(-2, 2, (count, 1))
    return {
        "x": (random.standard_normal((count, dim)) * lengths).astype(np.float32),
        "seed": random.standard_normal((count, network.size.seed_dim)).astype(np.float32),
        "phi_limit": np.broadcast_to(np.float32(limit), count).copy(),
        "seal": np.linalg.qr(random.standard_normal((dim, dim)))[0].astype(np.float32),
    }


def _run(graph: OrtGraph, inputs: dict[str, Rows]) -> tuple[Rows, Rows]:
    found = dict(zip(graph.output_names, graph.run(inputs), strict=True))
    return found["template"], found["angle"]


NETWORK = _network()
GRAPH = OrtGraph(to_onnx(NETWORK), "a test's network")


@pytest.mark.parametrize("limit", [0.0, 0.01, np.pi])
@pytest.mark.parametrize("count", [1, 2, 65])
@pytest.mark.parametrize(("erases", "rotates"), [(True, True), (False, False), (True, False)])
def test_torch_and_onnx_runtime_agree(erases: bool, rotates: bool, count: int, limit: float) -> None:
    network = _network(erases=erases, rotates=rotates)
    inputs = _inputs(network, count, limit)
    template, angle = _run(OrtGraph(to_onnx(network), "a test's network"), inputs)
    output = network(*(torch.from_numpy(value) for value in inputs.values()))
    assert template.shape == (count, DIM)
    assert angle.shape == (count,)
    assert np.abs(template - output.template.numpy()).max() <= 1e-5
    assert np.abs(angle - output.angle.numpy()).max() <= 1e-5


def test_they_agree_at_full_size() -> None:
    network = _network(dim=512, width=256)
    inputs = _inputs(network, 32, np.pi)
    template, angle = _run(OrtGraph(to_onnx(network), "a test's network"), inputs)
    output = network(*(torch.from_numpy(value) for value in inputs.values()))
    assert np.abs(template - output.template.numpy()).max() <= 1e-5
    assert np.abs(angle - output.angle.numpy()).max() <= 1e-5
    assert angle.max() > 0.1


def test_the_same_network_gives_the_same_bytes_and_another_one_others() -> None:
    again = PatronusNetwork(copy.deepcopy(NETWORK.size))
    again.load_state_dict(NETWORK.state_dict())
    assert to_onnx(NETWORK) == to_onnx(NETWORK) == to_onnx(again)
    assert to_onnx(NETWORK) != to_onnx(_network(seed=1))


def test_the_angle_is_the_one_between_erased_embedding_and_unsealed_template() -> None:
    inputs = _inputs(NETWORK, 200, np.linspace(0, 1, 200, dtype=np.float32))
    template, angle = _run(GRAPH, inputs)
    erased = NETWORK.erase(torch.from_numpy(inputs["x"])).numpy()
    # T = R t, so t = R^T T; in rows, T R.
    real = angles(erased, template.astype(np.float64) @ inputs["seal"])
    assert real == pytest.approx(angle, abs=ROUNDING)
    assert len(np.unique(angle.round(3))) > 50


def test_with_no_limit_left_a_template_is_the_sealed_erased_embedding() -> None:
    inputs = _inputs(NETWORK, 20, 0.0)
    template, angle = _run(GRAPH, inputs)
    wanted = inputs["x"].astype(np.float64) @ NETWORK.eraser.double().numpy().T
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert not angle.any()
    assert np.abs(template @ inputs["seal"] - wanted).max() < ROUNDING


def test_two_seeds_give_two_templates_and_one_seed_the_same() -> None:
    inputs = _inputs(NETWORK, 20, np.pi)
    first, angle = _run(GRAPH, inputs)
    again, _ = _run(GRAPH, inputs)
    other, _ = _run(GRAPH, inputs | {"seed": inputs["seed"][::-1].copy()})
    assert np.array_equal(first, again)
    apart = np.linalg.norm(first - other, axis=1)
    assert (apart[angle > 0.1] > 0.01).all()
    assert (angle > 0.1).any()


@pytest.mark.parametrize("dim", [6, DIM, DIM + 1])
def test_what_all_faces_share_is_a_quarter_turn_that_leaves_them_as_far_apart(dim: int) -> None:
    network = _network(dim=dim)
    turn = network.linear().double()
    left = dim % 2  # of an odd number one direction has no partner
    assert turn.numpy() == pytest.approx(-turn.T.numpy(), abs=1e-5)
    lengths = torch.linalg.svdvals(turn).numpy()
    assert lengths == pytest.approx([1.0] * (dim - left) + [0.0] * left, abs=1e-5)


def test_without_the_part_that_is_each_faces_own_no_score_changes() -> None:
    network = _network()
    for parameter in (network.leave.weight, network.leave.bias, network.depth.weight):
        parameter.zero_()
    network.slope.fill_(1e4)
    network.margin_from.fill_(1.0)
    found = protect(network, _inputs(network, 60, 0.0)["x"])
    erased = network.erase(torch.from_numpy(_inputs(network, 60, 0.0)["x"])).numpy()
    assert np.ptp(found.angles) < 1e-6
    assert found.angles.min() > 0.2
    assert found.templates @ found.templates.T == pytest.approx(erased @ erased.T, abs=1e-5)
    assert np.abs(found.templates @ erased.T - erased @ erased.T).max() > 0.02


def test_whoever_has_the_network_turns_templates_back_but_for_what_is_each_faces_own() -> None:
    network = _network()
    network.slope.fill_(STEEP)
    network.margin_from.fill_(1.0)
    network.depth.bias.fill_(9.0)
    network.leave.weight.mul_(0.1)
    network.leave.bias.mul_(0.1)
    rows = _inputs(network, 60, 0.0)["x"]
    erased = network.erase(torch.from_numpy(rows)).numpy()
    found = protect(network, rows)
    own = np.sum(rotated_back(network, found.templates) * erased, axis=1)
    assert own.mean() > np.sum(found.templates * erased, axis=1).mean() + 0.005
    for parameter in (network.leave.weight, network.leave.bias, network.depth.weight):
        parameter.zero_()
    network.depth.bias.fill_(30.0)
    assert rotated_back(network, protect(network, rows).templates) == pytest.approx(erased, abs=1e-5)


@settings(deadline=None)
@given(
    limits=arrays(np.float32, 8, elements=st.floats(-1, 4, width=32)),
    seed=st.integers(0, 1000),
)
def test_nobody_is_turned_further_than_caller_and_profile_allow(limits: Rows, seed: int) -> None:
    inputs = _inputs(NETWORK, 8, limits, seed)
    template, angle = _run(GRAPH, inputs)
    output = NETWORK(*(torch.from_numpy(value) for value in inputs.values()))
    allowed = np.minimum(limits.clip(min=0), np.float32(PHI_MAX))
    real = angles(output.erased.numpy(), template.astype(np.float64) @ inputs["seal"])
    assert (angle >= 0).all()
    assert (angle <= allowed + 1e-6).all()
    assert (output.angle.numpy() <= allowed + 1e-6).all()
    assert (real <= allowed + ROUNDING).all()
    assert np.linalg.norm(template.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("slope", [0.3, 1.0, 5.0])
def test_limits_are_those_of_the_cohorts_margin(slope: float) -> None:
    network = _network(slope=slope)
    inputs = _inputs(network, 300, 0.4)
    output = network(*(torch.from_numpy(value) for value in inputs.values()))
    erased = output.erased.numpy()
    expected = margin_limit(erased, network.cohort.numpy(), TAU, slope, PHI_MAX, inputs["phi_limit"])
    assert output.limit.numpy() == pytest.approx(expected, abs=ROUNDING * max(1, slope))
    assert 0 < np.mean(expected == 0) < 1
    assert not output.angle.numpy()[expected == 0].any()


# In bulk


def test_protecting_many_is_protecting_each_under_one_key() -> None:
    rows = _inputs(NETWORK, 9, 0.0)["x"]
    found = protect(NETWORK, rows, 0.3, seed=4)
    assert np.array_equal(found.templates, protect(NETWORK, rows, 0.3, seed=4).templates)
    assert not np.array_equal(found.templates, protect(NETWORK, rows, 0.3, seed=5).templates)
    assert (found.angles <= found.limits + 1e-6).all()
    assert (found.limits <= 0.3 + 1e-6).all()


def test_the_noise_that_protection_is_compared_with_has_its_angles() -> None:
    rows = NETWORK.erase(torch.from_numpy(_inputs(NETWORK, 50, 0.0)["x"])).numpy()
    wanted = np.linspace(0, 1.5, 50)
    assert angles(rows, gaussian(rows, wanted)) == pytest.approx(wanted, abs=ROUNDING)


# Before a profile is published


def _labelled(raw: Rows) -> Labelled:
    count = len(raw)
    images = FaceImages(np.arange(count).astype(object), np.arange(count).astype(object), np.empty((count, 0)), "")
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return Labelled(
        images, raw, unit, np.arange(count), np.full(count, TEST), np.empty((0, 2), dtype=np.int64), protocol=None
    )


def test_a_graph_of_another_network_is_not_published() -> None:
    labelled = _labelled(_inputs(NETWORK, 40, 0.0)["x"])
    assert check_parity(NETWORK, to_onnx(NETWORK), labelled) <= 1e-5
    with pytest.raises(SetupError, match="differs from the trained one"):
        check_parity(NETWORK, to_onnx(_network(seed=1)), labelled)


def test_rounding_that_a_steep_limit_magnifies_does_not_hinder_publishing() -> None:
    network = _network(erases=False, slope=STEEP)
    network.cohort.copy_(network.cohort[:1].expand(7, -1))
    member = network.cohort[0].double().numpy()
    rows = _inputs(network, 64, 0.0)["x"].astype(np.float64)
    aside = rows[:32] - np.outer(rows[:32] @ member, member)
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    at = np.arccos(TAU) + PHI_MAX / STEEP / 2  # half way up the ramp
    rows[:32] = np.cos(at) * member + np.sin(at) * aside
    assert check_parity(network, to_onnx(network), _labelled(rows.astype(np.float32))) <= 1e-5
