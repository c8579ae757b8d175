"""Boxes and landmarks are in pixels of the picture as sent, however its faces lie in it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.edge import Edge, encoded, pixels


def test_boxes_are_in_the_picture_as_sent_also_where_it_lies_on_its_side(shared_edge: Edge) -> None:
    portrait = pixels("obama/portrait.jpg")
    upright, lying = (
        shared_edge.send("/v1/detect", encoded(np.ascontiguousarray(picture), "JPEG", quality=95)).json()
        for picture in (portrait, np.rot90(portrait))
    )
    assert (upright["rotation"], lying["rotation"]) == (0, 90)
    assert (lying["width"], lying["height"]) == (upright["height"], upright["width"])
    before, after = (found["faces"][0]["box"] for found in (upright, lying))
    assert after["x"] == pytest.approx(before["y"], abs=15)
    assert after["y"] == pytest.approx(upright["width"] - before["x"] - before["width"], abs=15)
    right, left = (lying["faces"][0]["landmarks"][eye] for eye in ("right_eye", "left_eye"))
    assert abs(right["y"] - left["y"]) > 5 * abs(right["x"] - left["x"])


def test_nobody_in_a_picture_is_no_error_for_detect(shared_edge: Edge) -> None:
    answer = shared_edge.send("/v1/detect", encoded(np.full((300, 300, 3), 99, np.uint8)))
    assert answer.json()["faces"] == []


def test_the_document_says_of_which_picture_boxes_and_points_are(shared_edge: Edge) -> None:
    schemas = shared_edge.app.openapi()["components"]["schemas"]
    for name in ("Box", "Point"):
        assert "of the picture as sent, after its EXIF orientation" in schemas[name]["description"]


def test_identify_has_the_same_boxes_as_detect(shared_edge: Edge) -> None:
    shared_edge.make("lying")
    lying = encoded(np.ascontiguousarray(np.rot90(pixels("obama/portrait.jpg"))), "JPEG", quality=95)
    detected = shared_edge.send("/v1/detect", lying).json()["faces"][0]
    identified = shared_edge.identify("lying", lying).json()["faces"][0]
    assert identified["box"] == detected["box"]
    assert set(identified["quality"]) == {
        *("face_size_px", "sharpness", "brightness", "nose_offset", "detector_score"),
        *("upright", "reasons"),
    }
