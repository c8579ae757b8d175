"""The library protects as the edge does, refuses what the edge refuses, and keeps what a deployed system relies on."""

from __future__ import annotations

import functools
import logging
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_service.protection import protect
from edge_service.protection.profiles.files import load_profile
from patronus_face import Conflict, Key, ProtectionFailed, Protector, SetupError, Unprocessable
from tests.support.patronus_profile import make_network, make_profile, units

Rows = NDArray[np.float32]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return Key.load_or_create(tmp_path_factory.mktemp("keys") / "a.key")


@pytest.fixture(scope="module")
def protector(key: Key) -> Protector:
    return Protector.open("default", key=key, gallery="door")


@pytest.fixture
def sealing(tmp_path: Path) -> Callable[..., Protector]:
    """Protectors under ``seal``, each with a key of its own."""
    made = iter(range(100))

    def opened(dim: int = 64, **named: Any) -> Protector:
        return Protector.open("seal", key=Key.load_or_create(tmp_path / f"{next(made)}.key"), dim=dim, **named)

    return opened


def cosines(rows: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    return rows.astype(np.float64) @ others.astype(np.float64).T


def test_it_makes_the_templates_that_an_edge_with_this_key_makes(protector: Protector, key: Key) -> None:
    rows = units(5)
    epoch_key = key.gallery_key("door").of(protector.contract.seal)
    served = protect.Protector(load_profile("default")).templates(rows, epoch_key)
    np.testing.assert_array_equal(protector.protect(rows), served.templates)
    assert "seal" in served.done


def test_one_row_gives_one_and_the_same_as_among_others(protector: Protector) -> None:
    rows = units(11)
    many = protector.protect(rows)
    assert (many.shape, many.dtype) == ((11, 128), np.float32)
    for row in (0, 3, 10):
        alone = protector.protect(rows[row])
        assert (alone.shape, alone.dtype) == ((128,), np.float32)
        np.testing.assert_array_equal(alone, many[row])
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, atol=1e-6)


def test_another_layout_or_precision_gives_the_same(protector: Protector) -> None:
    rows = units(6)
    wanted = protector.protect(rows)
    wide = np.zeros((6, 256), np.float32)
    wide[:, ::2] = rows
    for given in (rows.astype(np.float64), np.asfortranarray(rows), wide[:, ::2], rows[::-1][::-1], rows.tolist()):
        np.testing.assert_array_equal(protector.protect(given), wanted)
    big_endian = rows.astype(">f4")
    np.testing.assert_array_equal(protector.protect(big_endian), wanted)
    before = rows.copy()
    before.flags.writeable = False
    np.testing.assert_array_equal(protector.protect(before), wanted)
    np.testing.assert_array_equal(protector.protect(rows * np.float32(8)), wanted)  # as the embedder may give them
    half = rows.astype(np.float16)
    np.testing.assert_array_equal(protector.protect(half), protector.protect(half.astype(np.float64)))


def test_many_embeddings_need_little_memory_beside_their_templates(sealing: Callable[..., Protector]) -> None:
    protector, rows = sealing(64), np.tile(units(1_000, 64), (300, 1)).astype(np.float64)
    wanted = protector.protect(rows[:1_000])
    tracemalloc.start()
    made = protector.protect(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < made.nbytes + 40 * 1024**2
    np.testing.assert_allclose(made, np.tile(wanted, (300, 1)), atol=1e-6)
    rows[[7, 299_999]] = 0
    with pytest.raises(Unprocessable, match="Embedding 7, counted from 0, is a zero vector; 2 of them") as refused:
        protector.protect(rows)
    assert refused.value.extra["embeddings"] == [7, 299_999]


def with_row(value: Any) -> Rows:
    rows = units(3)
    rows[1] = value
    return rows


IN_ITSELF: list[Any] = []
IN_ITSELF.append(IN_ITSELF)

REFUSED: dict[str, tuple[Any, str, str]] = {
    "another dimension": (units(2, 127), "wrong_dimension", "have 127 dimensions, and 128 are wanted"),
    "NaN": (with_row(np.nan), "not_finite", "Embedding 1, counted from 0, holds a value that is not finite"),
    "infinity": (with_row(np.inf), "not_finite", "not finite"),
    "too large for float32": (with_row(1).astype(np.float64) * 1e300, "not_finite", "not finite"),
    "zeros": (with_row(0), "zero_vector", "Embedding 1, counted from 0, is a zero vector"),
    "too long": (units(2) * 100, "implausible_length", "has a length that sface_2021dec does not give"),
    "integers": (np.ones((2, 128), np.int64), "bad_type", "are of type int64; give floating-point numbers"),
    "bytes": (np.ones((2, 128), np.uint8), "bad_type", "are of type uint8"),
    "truth values": (np.ones((2, 128), bool), "bad_type", "are of type bool"),
    "objects": (np.full((2, 128), None), "bad_type", "are of type object"),
    "texts": (np.full((2, 128), "1.0"), "bad_type", "are of type <U3"),
    "complex numbers": (np.ones((2, 128), np.complex64), "bad_type", "are of type complex64"),
    "nothing": (None, "bad_type", "are of type object"),
    "no rows": (np.empty((0, 128), np.float32), "bad_shape", r"have the shape \(0, 128\)"),
    "no values": (np.empty((2, 0), np.float32), "bad_shape", r"have the shape \(2, 0\)"),
    "an empty list": ([], "bad_shape", r"have the shape \(0,\)"),
    "a number": (np.float32(1), "bad_shape", r"have the shape \(\)"),
    "three axes": (np.ones((1, 2, 128), np.float32), "bad_shape", r"have the shape \(1, 2, 128\)"),
    "a masked value": (np.ma.array(np.ones((2, 128)), mask=np.eye(2, 128)), "masked", "have masked values"),
    "a masked row among rows": (
        [np.ones(128), np.ma.array(np.ones(128), mask=np.arange(128) > 126)],
        "masked",
        "have masked values",
    ),
    "a list nested deep": (functools.reduce(lambda inner, _: [inner], range(100), [1.0]), "bad_shape", "list of lists"),
    "a list in itself": (IN_ITSELF, "bad_shape", "list of lists"),
    "uneven rows": ([[1.0, 2.0], [1.0]], "uneven", "not of one length"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_protected_is_refused_in_one_sentence(protector: Protector, case: str) -> None:
    given, reason, says = REFUSED[case]
    with pytest.raises(Unprocessable, match=says) as refused:
        protector.protect(given)
    assert refused.value.reason == reason
    assert refused.value.__cause__ is None


def test_a_masked_array_without_masked_values_is_an_array(protector: Protector) -> None:
    rows = units(3)
    np.testing.assert_array_equal(protector.protect(np.ma.array(rows)), protector.protect(rows))


def test_a_failing_step_gives_no_template(sealing: Callable[..., Protector]) -> None:
    protector = sealing(128)
    protector._engine.apply_steps = lambda rows, key, *, sealed: protect.Protected(rows, rows[:, 0], ("seal",))
    with pytest.raises(ProtectionFailed):
        protector.protect(units(2))


@pytest.mark.parametrize("dim", [32, 100, 512])
def test_any_embedder_can_be_sealed(sealing: Callable[..., Protector], dim: int) -> None:
    rows, others = units(20, dim), units(10, dim, seed=1)
    protector = sealing(dim)
    templates = protector.protect(rows * 17)
    np.testing.assert_allclose(cosines(templates, protector.protect(others)), cosines(rows, others), atol=1e-6)
    assert np.abs(np.vecdot(rows, templates)).max() < 8 / np.sqrt(dim)
    assert protector.threshold is None
    assert protector.contract.dim == dim


@pytest.mark.slow(reason="a seal of 4,096 dimensions takes half a minute to draw")
def test_the_largest_embedder_can_be_sealed(sealing: Callable[..., Protector]) -> None:
    rows, protector = units(4, 4096), sealing(4096)
    np.testing.assert_allclose(
        cosines(protector.protect(rows), protector.protect(rows)), cosines(rows, rows), atol=1e-6
    )


def test_a_dimension_that_cannot_be_sealed_is_refused(sealing: Callable[..., Protector], key: Key) -> None:
    for dim in (15, 4097):
        with pytest.raises(SetupError, match=f"these embeddings have {dim}"):
            sealing(dim)
    with pytest.raises(SetupError, match="say how many values an embedding has: dim=512"):
        sealing(None)
    with pytest.raises(SetupError, match="is for 128 dimensions; these embeddings have 512"):
        Protector.open("default", key=key, dim=512)


def test_keys_and_galleries_are_not_linked(sealing: Callable[..., Protector], tmp_path: Path) -> None:
    rows = units(50, 64)
    made = [sealing().protect(rows) for _ in range(2)]
    secret = Key.load_or_create(tmp_path / "a.key")
    copied = tmp_path / "b.key"
    copied.write_bytes(secret.path.read_bytes())
    copied.chmod(0o600)
    for key, gallery in ((secret, "door"), (Key.load(copied), "roof")):
        made.append(Protector.open("seal", key=key, gallery=gallery, dim=64).protect(rows))
    for one in range(4):
        for other in range(one):
            assert abs(np.vecdot(made[one], made[other]).mean()) < 0.4


def test_threads_share_a_protector(protector: Protector) -> None:
    rows = units(64)
    wanted = protector.protect(rows)
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda row: protector.protect(rows[row % 64]), range(256)))
    for row, template in enumerate(made):
        np.testing.assert_array_equal(template, wanted[row % 64])


def test_a_rotation_leads_from_one_key_to_another(tmp_path: Path, sealing: Callable[..., Protector]) -> None:
    old, new_key = sealing(gallery="door"), Key.load_or_create(tmp_path / "new.key")
    rows = units(30, 64)
    matrix = old.rekey_matrix(new_key)
    assert (matrix.shape, matrix.dtype) == ((64, 64), np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(64), atol=1e-12)
    assert new_key.used_for() is None
    new = Protector.open("seal", key=new_key, gallery="door", dim=64)
    turned = old.protect(rows) @ matrix.T
    np.testing.assert_allclose(turned, new.protect(rows), atol=1e-6)
    assert np.abs(cosines(old.protect(rows), new.protect(rows)).diagonal()).max() < 0.9


def test_under_a_network_turned_templates_keep_their_scores(protector: Protector, tmp_path: Path) -> None:
    rows = units(40)
    before = protector.protect(rows)
    turned = before @ protector.rekey_matrix(Key.load_or_create(tmp_path / "new.key")).T
    np.testing.assert_allclose(cosines(turned, turned), cosines(before, before), atol=1e-5)


def test_a_rotation_that_makes_no_sense_is_refused(sealing: Callable[..., Protector], key: Key, tmp_path: Path) -> None:
    old, other = sealing(gallery="door"), sealing(gallery="roof")
    for new, says in ((old._key, "is the present one"), (other._key, "is of the gallery 'roof', and this is 'door'")):
        with pytest.raises(Conflict, match=says):
            old.rekey_matrix(new)
    unsealed = Protector.open("plugin", key=Key.load_or_create(tmp_path / "plugin.key"))
    with pytest.raises(Conflict, match="does not seal"):
        unsealed.rekey_matrix(key)
    longer = Key.load_or_create(tmp_path / "longer.key")
    Protector.open("seal", key=longer, gallery="door", dim=512)
    with pytest.raises(Conflict, match="for the profile 'seal' at 512 values"):
        old.rekey_matrix(longer)


def test_what_protects_little_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, protector: Protector) -> None:
    rows = units(30)
    protector.protect(rows)
    assert caplog.messages == []
    network = make_network(erases=False, cohort=64)
    make_profile(tmp_path, network, name="plain", seals=False)
    near = network.cohort.numpy()[:5]  # nearest impostors of themselves: no margin
    with caplog.at_level(logging.WARNING):
        plain = Protector.open("plain", key=Key.load_or_create(tmp_path / "a.key"), profiles=tmp_path)
        plain.protect(np.concatenate([near, rows[:2]]))
    assert caplog.messages == [
        "The profile plain does not seal: its templates are nearly embeddings.",
        "5 of 7 embeddings had no margin and were not perturbed.",
    ]


def test_the_contract_tells_what_is_comparable_and_no_secret(protector: Protector, key: Key) -> None:
    contract = protector.contract
    assert (contract.dim, contract.embedder.name, contract.profile) == (
        128,
        "sface_2021dec",
        load_profile("default").pin,
    )
    assert Protector.open("default", key=key).contract.digest() == contract.digest()
    assert contract.seal is not None
    assert contract.seal.epoch == key.epoch
    assert protector.threshold == load_profile("default").document.threshold
    assert Protector.open("seal", key=key.load_or_create(key.path.with_name("b")), dim=128).contract != contract
