"""``patronus gallery rekey``: has the edge change a gallery's key, and waits for the end of it."""

from __future__ import annotations

import time
from typing import Any, Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edge_service.cli.edge_client import EdgeClient, Refused
from edge_service.cli.output import Output
from shared.counted import counted

# Where the cloud is away or busy for a moment, a change that has begun is not given up for it.
_BUSY: Final = frozenset({429, 503})
_WAITS_S: Final = (0.5, 1, 2, 4, 8)


def rekey(client: EdgeClient, path: str, out: Output, *, abandon: bool) -> None:
    """Changes the key, or gives a change up, until the cloud says that it is done.

    Args:
        client: of the edge.
        path: of the gallery's change of key.
        out: where it is told.
        abandon: whether to give up a change that is under way.

    Raises:
        Refused: the edge or the cloud refuses.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    before = _asked(client, "GET", path) if abandon else None
    if before is not None and before["state"] == "settled":
        out.result(before, "No change of key was under way.")
        return
    epoch: str | None = None
    with Progress(*columns, console=out.errors, transient=True) as progress:
        bar = progress.add_task("", total=None)
        while True:
            if abandon:
                answer = _asked(client, "DELETE", path)
                done = answer["state"] != "staging"
            else:
                answer = _asked(client, "POST", path, json={"epoch": epoch})
                # The key that this began with, from now on: what is done is not begun once more.
                epoch = epoch or (answer["next_contract"] or answer["contract"])["seal"]["epoch"]
                done = answer["state"] != "settling" and answer["contract"]["seal"]["epoch"] == epoch
            if done:
                break
            there = answer["templates"]
            progress.update(bar, description=answer["state"], total=there, completed=there - answer["left"])
    named = (answer["contract"]["seal"] or {}).get("epoch", "none")
    given_up = before is not None and before["state"] == "staging"
    begin = "The change of key was given up. " if given_up else ""
    held = counted(answer["templates"], "template is", "templates are")
    out.result(answer, f"{begin}{answer['gallery']}: {held} under the key of epoch {named}.")


def _asked(client: EdgeClient, method: str, path: str, **request: Any) -> dict[str, Any]:
    for seconds in _WAITS_S:
        try:
            return client.call(method, path, **request)
        except Refused as error:
            if error.problem.get("status") not in _BUSY:
                raise
            time.sleep(seconds)
    return client.call(method, path, **request)
