"""Subjects of an edge's galleries as callers see them, enrolled from embeddings without a picture."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray

from tests.support.edge import Edge


def embedding(seed: int) -> NDArray[np.float32]:
    """A person who resembles nobody: (128,) float32, a unit vector."""
    row = np.random.default_rng(seed).standard_normal(128)
    return (row / np.linalg.norm(row)).astype(np.float32)


def path(gallery: str, subject: str) -> str:
    """The path of a subject, whose name may be in any script."""
    return f"/v1/galleries/{gallery}/subjects/{quote(subject, safe='')}"


def enroll(edge: Edge, gallery: str, subject: str, *seeds: int) -> list[str]:
    """Enrolls people without a picture under one name; the ids of their faces."""
    body = {"embeddings": [{"values": embedding(seed).tolist()} for seed in seeds]}
    answer = edge.call("POST", f"{path(gallery, subject)}/embeddings", json=body)
    assert answer.status_code == 201, answer.text
    return [face["id"] for face in answer.json()["faces"]]


def listed(edge: Edge, gallery: str, **query: Any) -> list[str]:
    """The names on a page of a gallery's subjects."""
    answer = edge.call("GET", f"/v1/galleries/{gallery}/subjects", params=query)
    assert answer.status_code == 200, answer.text
    return [item["subject"] for item in answer.json()["items"]]


def faces(edge: Edge, gallery: str, subject: str) -> list[str]:
    """The ids of a subject's faces; none where there is no such subject."""
    answer = edge.call("GET", path(gallery, subject))
    assert answer.status_code in {200, 404}, answer.text
    return [face["id"] for face in answer.json().get("faces", [])]


def similarities(edge: Edge, gallery: str, subject: str, *pictures: bytes) -> list[float]:
    """The scores of pictures against a subject."""
    answers = [edge.send(f"{path(gallery, subject)}/verify", picture) for picture in pictures]
    return [answer.json()["similarity"] for answer in answers]


def move(edge: Edge, gallery: str, subject: str, what: str, **body: str) -> httpx.Response:
    """Renames or merges a subject, or moves a face of it."""
    return edge.call("POST", f"{path(gallery, subject)}/{what}", json=body)
