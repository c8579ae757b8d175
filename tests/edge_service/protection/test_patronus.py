"""The network of a profile does what the profile says, reproducibly; otherwise no template is made."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_service.protection.gaussians import seeds
from edge_service.protection.keys import PUBLIC_KEY, EpochKey, GalleryKey
from edge_service.protection.patronus import PatronusGraph
from edge_service.protection.profiles.files import Profile
from edge_service.protection.protect import Protected, ProtectionContext, Protector
from edge_service.protection.seal import seal, seal_matrix
from lab.defence.network import PatronusNetwork
from shared.errors import ProtectionFailed, SetupError
from tests.support.patronus_profile import (
    DIM,
    PHI_MAX,
    SEED_DIM,
    angles_between,
    make_network,
    make_profile,
    output_changed,
    output_replaced_where_first_is_large,
    units,
)

KEY = GalleryKey("door", bytes(32)).epoch("0" * 16)
Rows = NDArray[np.float32]
OTHERS = [GalleryKey("door", bytes(32)).epoch("1" * 16), GalleryKey("roof", bytes(31) + b"1").epoch("0" * 16)]


@pytest.fixture(scope="module")
def network() -> PatronusNetwork:
    return make_network()


@pytest.fixture(scope="module")
def profile(network: PatronusNetwork, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return make_profile(tmp_path_factory.mktemp("profiles"), network)


@pytest.fixture(scope="module")
def protector(profile: Profile) -> Protector:
    return Protector(profile)


def limited(profile: Profile, rows: Rows, limits: Rows) -> Protected:
    """What the network makes of embeddings within these limits, without the seal."""
    step = profile.document.patronus
    assert step is not None
    assert profile.graph is not None
    drawn = seeds(rows, KEY.seed_key(), SEED_DIM)
    made = PatronusGraph(step, profile.graph, "mine").run(rows, drawn, limits, np.eye(DIM, dtype=np.float32))
    return Protected(*made, ("patronus",))


@pytest.fixture(scope="module")
def without_erase(tmp_path_factory: pytest.TempPathFactory) -> Protector:
    return Protector(make_profile(tmp_path_factory.mktemp("profiles"), make_network(erases=False), seals=False))


@given(
    values=st.lists(st.floats(-1, 1, width=32), min_size=DIM, max_size=DIM).filter(
        lambda values: float(np.linalg.norm(values)) > 0.01
    ),
    secret=st.binary(min_size=32, max_size=32),
)
@settings(deadline=None)
def test_the_reported_angle_is_the_angle_from_the_embedding(
    without_erase: Protector, values: list[float], secret: bytes
) -> None:
    row = np.array([values])
    row = (row / np.linalg.norm(row)).astype(np.float32)
    made = without_erase.templates(row, EpochKey("door", "0" * 16, secret))
    assert angles_between(made.templates, row) == pytest.approx(made.angles, abs=2e-6)
    assert 0 <= made.angles[0] <= PHI_MAX


def test_it_is_what_the_network_in_torch_does(network: PatronusNetwork, protector: Protector) -> None:
    rows = units(50)
    made = protector.templates(rows, KEY)
    drawn = seeds(rows, KEY.stream_key("perturb seed"), SEED_DIM)
    with torch.no_grad():
        limits = torch.full((50,), float(np.pi))
        wanted = network(*map(torch.tensor, (rows, drawn)), limits, torch.tensor(seal_matrix(KEY, DIM)))
    np.testing.assert_allclose(made.templates, wanted.template.numpy(), atol=2e-6)
    np.testing.assert_allclose(made.angles, wanted.angle.numpy(), atol=2e-6)
    assert (made.angles > 0.01).mean() > 0.9
    assert made.done == ("patronus", "seal")


def test_the_seal_goes_over_what_would_come_out_without_it(protector: Protector) -> None:
    rows = units(20)
    sealed, plain = protector.templates(rows, KEY), protector.templates(rows, KEY, sealed=False)
    np.testing.assert_allclose(sealed.templates, plain.templates @ seal_matrix(KEY, DIM).T, atol=2e-6)
    np.testing.assert_allclose(sealed.angles, plain.angles, atol=1e-6)
    assert plain.done == ("patronus",)
    # What is erased, and by how much it is turned, differs from an embedding to the next; a seal keeps none of it.
    assert (np.einsum("nd,nd->n", rows, plain.templates) > 0.5).all()
    assert (np.abs(np.einsum("nd,nd->n", rows, sealed.templates)) < 0.7).all()


def test_the_same_embedding_gives_the_same_template_alone_and_among_others(protector: Protector) -> None:
    rows = units(9)
    together = protector.templates(rows, KEY)
    for row in range(9):
        alone = protector.templates(rows[row : row + 1], KEY)
        np.testing.assert_array_equal(alone.templates[0], together.templates[row])
        np.testing.assert_array_equal(alone.angles[0], together.angles[row])


def test_another_key_or_another_embedding_draws_another_seed() -> None:
    rows = units(3)
    drawn = [seeds(rows, key.stream_key("perturb seed"), SEED_DIM) for key in (KEY, *OTHERS, PUBLIC_KEY)]
    drawn.append(seeds(np.nextafter(rows, np.float32(1)), KEY.stream_key("perturb seed"), SEED_DIM))
    distinct = {row.tobytes() for each in drawn for row in each}
    assert len(distinct) == 5 * 3
    flat = np.concatenate([np.abs(np.corrcoef(np.concatenate(drawn))[np.triu_indices(15, 1)])])
    assert flat.max() < 0.95


@pytest.mark.parametrize("length", [1, 2, 7, 16, 33])
def test_seeds_are_standard_normal(length: int) -> None:
    drawn = seeds(units(20_000 // length), b"k" * 32, length).ravel()
    assert drawn.dtype == np.float32
    assert abs(float(drawn.mean())) < 0.04
    assert abs(float(drawn.std()) - 1) < 0.03
    assert 0.0015 < float((np.abs(drawn) > 3).mean()) < 0.004


def test_another_key_turns_another_way(protector: Protector) -> None:
    rows = units(5)
    plain = [protector.templates(rows, key, sealed=False).templates for key in (KEY, *OTHERS)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (angles_between(plain[one], plain[other]) > 1e-3).all()


def test_a_limit_holds_and_what_is_not_turned_is_counted(network: PatronusNetwork, protector: Protector) -> None:
    rows = units(4)
    limits = np.array([0, 0.01, 0.02, np.pi], np.float32)
    made = limited(protector.profile, rows, limits)
    assert (made.angles <= limits).all()
    assert made.unperturbed == 1
    with torch.no_grad():
        left = network.erase(torch.tensor(rows)).numpy()
    assert angles_between(made.templates, left)[0] < 2e-6
    # What erase makes an impostor of the cohort of: there is no margin to be spent.
    near = np.linalg.pinv(network.eraser.numpy(), rcond=1e-3) @ network.cohort[:3].numpy().T
    rows = np.concatenate([(near / np.linalg.norm(near, axis=0)).T, rows[:2]]).astype(np.float32)
    counted: list[Any] = []
    outgoing = Protector(protector.profile, on_protected=counted.append).protect(
        rows, ProtectionContext(KEY, "a" * 64, protector.profile.pin)
    )
    assert (len(outgoing.envelopes), outgoing.unperturbed) == (5, 3)
    assert [each.unperturbed for each in counted] == [3]


def test_an_embedding_of_which_erase_leaves_nothing_is_refused(network: PatronusNetwork, protector: Protector) -> None:
    gone = np.linalg.svd(network.eraser.numpy())[2][-1:]  # the direction that E shrinks the most: to rounding
    with pytest.raises(ProtectionFailed, match="nothing was sent"):
        protector.templates(gone.astype(np.float32), KEY)


@pytest.mark.parametrize("limit", [-0.1, float("nan")])
def test_a_limit_that_is_none_is_refused(profile: Profile, limit: float) -> None:
    with pytest.raises(ProtectionFailed, match="limit"):
        limited(profile, units(1), np.array([limit], np.float32))


def unsealed(graph: onnx.GraphProto) -> None:
    """The template is answered as it is before the seal."""
    product = next(node for node in graph.node if "template" in node.output)
    product.op_type = "Identity"
    del product.input[1:]


LIES: dict[str, Any] = {
    "does not seal": unsealed,
    "seals the wrong way round": lambda graph: (
        next(node for node in graph.node if node.op_type == "Transpose")
        .attribute[0]
        .ints.__setitem__(slice(None), [0, 1])
    ),
    "turns less than it says": output_changed("angle", "Mul", np.float32(2)),
    "turns more than it says": output_changed("angle", "Mul", np.float32(0.9)),
    "says an angle below zero": output_changed("angle", "Neg"),
    "says no angle": output_changed("angle", "Mul", np.float32(np.nan)),
    "turns a quarter": output_changed("template", "Mul", np.r_[np.ones(DIM - 40), -np.ones(40)].astype(np.float32)),
    "gives long vectors": output_changed("template", "Mul", np.float32(1.01)),
    "gives zeros": output_changed("template", "Mul", np.float32(0)),
    "gives NaN": output_changed("template", "Mul", np.float32(np.nan)),
    "gives infinity": output_changed("template", "Mul", np.float32(np.inf)),
}


@pytest.mark.parametrize("change", LIES.values(), ids=LIES)
def test_a_graph_that_lies_stops_the_start(network: PatronusNetwork, tmp_path: Path, change: Any) -> None:
    profile = make_profile(tmp_path, network, change=change)
    with pytest.raises(SetupError, match=r"^The graph patronus.onnx of the protection profile 'mine' does not do"):
        Protector(profile)


def test_a_graph_that_does_nothing_and_says_so_stops_the_start(network: PatronusNetwork, tmp_path: Path) -> None:
    still = copy.deepcopy(network)
    still.phi_max.fill_(9e-4)  # less than the check of angles can see
    with pytest.raises(SetupError, match="It perturbs none of the embeddings that it was tried on"):
        Protector(make_profile(tmp_path / "still", still))
    whole = copy.deepcopy(network)
    whole.eraser.copy_(torch.eye(DIM))
    with pytest.raises(SetupError, match="It erases nothing"):
        Protector(make_profile(tmp_path / "whole", whole))


def test_an_angle_within_rounding_of_zero_counts_as_unperturbed(profile: Profile) -> None:
    made = limited(profile, units(4), np.array([0.2, 9e-4, 0.0, 0.2], np.float32))
    assert made.unperturbed == 2


def test_a_graph_that_erases_though_it_says_that_it_does_not_stops_the_start(
    network: PatronusNetwork, tmp_path: Path
) -> None:
    with pytest.raises(SetupError, match="did not erase, perturb or seal as it reports"):
        Protector(make_profile(tmp_path, network, step={"layers": ["perturb"]}))


def test_a_graph_that_turns_further_than_the_profile_says_stops_the_start(
    network: PatronusNetwork, tmp_path: Path
) -> None:
    with pytest.raises(SetupError, match="perturbed an embedding by more than its limit"):
        Protector(make_profile(tmp_path, network, step={"phi_max": 0.05}))


@pytest.mark.parametrize(
    ("step", "says"),
    [({"dim": 64}, "other inputs .*seal, x"), ({"seed_dim": 8}, "other inputs .*seed")],
)
def test_a_graph_of_other_dimensions_stops_the_start(
    network: PatronusNetwork, tmp_path: Path, step: dict[str, Any], says: str
) -> None:
    with pytest.raises(SetupError, match=says):
        Protector(make_profile(tmp_path, network, step=step))


def test_a_file_that_is_no_graph_stops_the_start(profile: Profile) -> None:
    for content in (b"", b"not a graph", (profile.graph or b"")[:-1000]):
        with pytest.raises(SetupError, match=r"refuses patronus\.onnx"):
            Protector(replace(profile, graph=content))


@pytest.mark.parametrize(
    ("output", "value"),
    [("template", float("nan")), ("template", 0.0884), ("template", 0.0), ("angle", float("nan")), ("angle", 0.299)],
)
def test_one_bad_face_later_on_lets_nothing_out(
    network: PatronusNetwork, tmp_path: Path, output: str, value: float
) -> None:
    protector = Protector(make_profile(tmp_path, network, change=output_replaced_where_first_is_large(output, value)))
    rows = units(3)
    assert len(protector.protect(rows, ProtectionContext(KEY, "a" * 64, protector.profile.pin)).envelopes) == 3
    rows[1] = np.eye(DIM, dtype=np.float32)[0]
    with pytest.raises(ProtectionFailed, match="nothing was sent"):
        protector.protect(rows, ProtectionContext(KEY, "a" * 64, protector.profile.pin))


def test_a_profile_with_a_network_lets_nothing_out_that_did_not_go_through_it(profile: Profile) -> None:
    protector = Protector(profile)
    nothing = np.zeros(2, np.float32)
    for made in (Protected(seal(units(2), KEY), nothing, ("seal",)), Protected(units(2), nothing, ())):
        protector.apply_steps = lambda *_, made=made, **__: made
        with pytest.raises(ProtectionFailed, match="was omitted"):
            protector.templates(units(2), KEY)


def test_a_profile_that_seals_lets_nothing_out_unsealed(profile: Profile) -> None:
    protector = Protector(profile)
    protector.apply_steps = lambda rows, key, *, sealed: Protector(profile).apply_steps(rows, key, sealed=not sealed)
    with pytest.raises(ProtectionFailed, match="was omitted"):
        protector.templates(units(2), KEY)


@pytest.mark.parametrize("dim", [8, 512])
def test_other_dimensions_work_alike(tmp_path: Path, dim: int) -> None:
    network = make_network(dim=dim, cohort=2)
    made = Protector(make_profile(tmp_path, network)).templates(units(5, dim), KEY)
    assert made.templates.shape == (5, dim)
