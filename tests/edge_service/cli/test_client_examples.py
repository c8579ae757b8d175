"""The examples in the docstrings of the client run against a pair, and say what they answer."""

from __future__ import annotations

import asyncio
import doctest
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from shared.client import AsyncClient, Client, clients, embeddings, galleries, matching, subjects
from shared.errors import NotFound
from tests.edge_service.cli.patronus_command import Command
from tests.support.edge import PICTURES


@pytest.fixture
def words(command: Command) -> Iterator[dict[str, Any]]:
    """The names that the examples use; their gallery is new."""
    key = (command.home / "edge" / "api_key").read_text().strip()
    with Client(command.edge, api_key=key) as client:
        with pytest.raises(NotFound):
            client.get_gallery("door")
        yield {
            "AsyncClient": AsyncClient,
            "Client": Client,
            "asyncio": asyncio,
            "timedelta": timedelta,
            "client": client,
            "API_KEY": key,
            "EDGE": command.edge,
            "PORTRAIT": PICTURES / "obama" / "portrait.jpg",
            "SPEECH": PICTURES / "obama" / "speech.jpg",
        }
        client.delete_gallery("door")


def test_the_examples_of_the_client_run(words: dict[str, Any]) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    run = 0
    for module in (galleries, subjects, embeddings, matching, clients):  # those of `matching` need somebody enrolled
        for example in sorted(doctest.DocTestFinder().find(module, globs=words), key=lambda found: found.lineno or 0):
            run += len(example.examples)
            assert runner.run(example).failed == 0, example.name
    assert run > 10


def test_two_calls_of_one_client_run_beside_each_other(words: dict[str, Any]) -> None:
    async def both() -> list[str]:
        async with AsyncClient(words["EDGE"], api_key=words["API_KEY"]) as client:
            await client.put_gallery("door")
            calls = [client.enroll_faces("door", name, words["PORTRAIT"]) for name in ("ada", "obama")]
            return [answer.faces[0].stored for answer in await asyncio.gather(*calls)]

    assert asyncio.run(both()) == ["now", "now"]
