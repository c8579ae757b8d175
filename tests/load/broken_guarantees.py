"""``make guarantees``: breaks one guarantee of the product after the other, and shows which fast tests fail.

Each guarantee is broken in a copy of the source tree, by replacing a piece of code. A guarantee whose tests stay green
is not guarded: the exit status is 1. The tests that are named run on the whole copy first and must pass.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from shared.command import run
from shared.errors import SetupError

_ROOT: Final = Path(__file__).parents[2]
_COPIED: Final = (
    "cloud_service",
    "deploy",
    "edge_service",
    "lab",
    "patronus_face",
    "shared",
    "tests",
    "pyproject.toml",
)
_SECONDS: Final = 3600
app = typer.Typer()


@dataclass(frozen=True, slots=True)
class Guarantee:
    """A guarantee, how to break it, and the tests that must notice.

    Attributes:
        name: the guarantee, as a sentence.
        package: the folder with the code that keeps it.
        code: a piece of that code; it must occur in one place.
        broken: what replaces it.
        tests: files of tests of the fast lane.
    """

    name: str
    package: str
    code: str
    broken: str
    tests: tuple[str, ...]


_EDGE, _CLOUD, _SHARED = "edge_service", "cloud_service", "shared"
_PROTECT = "tests/edge_service/protection/test_protect.py"
_MATCHING = "tests/cloud_service/routes/test_matching.py"
_LIFE = "tests/cloud_service/entries/test_random_life.py"
_NAMES = "tests/edge_service/subjects/test_sealed_names.py"
_SUBJECTS = "tests/cloud_service/subjects"
_KEYS = "tests/cloud_service/routes/test_api_keys.py"
GUARANTEES: Final = (
    Guarantee(
        "Templates are sealed",
        _EDGE,
        "matrix = seal_matrix(key, dim) if seal_now else np.eye(dim, dtype=np.float32)",
        "matrix = np.eye(dim, dtype=np.float32)",
        ("tests/edge_service/protection/test_patronus.py", _PROTECT),
    ),
    Guarantee(
        "Embeddings are perturbed",
        _EDGE,
        "self._graph.run(rows, drawn, no_limits, matrix)",
        "self._graph.run(rows, drawn, np.zeros_like(no_limits), matrix)",
        ("tests/edge_service/protection/test_patronus.py", _PROTECT),
    ),
    Guarantee(
        "The edge sends templates, not embeddings",
        _EDGE,
        "for row in protected.templates]",
        "for row in embeddings]",
        (_PROTECT, "tests/end_to_end/test_wire_privacy.py"),
    ),
    Guarantee(
        "Nothing is sent when a step of the protection is left out",
        _EDGE,
        "if made.done != wanted or",
        "if",
        (_PROTECT,),
    ),
    Guarantee(
        "No cloud makes the edge protect less than its own profile does",
        _EDGE,
        "if missing and found.pin.name not in weaker:",
        "if False:",
        ("tests/edge_service/routes/test_galleries_of_other_profiles.py",),
    ),
    Guarantee(
        "The cloud is told no subject's name",
        _EDGE,
        "if info.sealed_names:",
        "if False:",
        (_NAMES,),
    ),
    Guarantee(
        "No cloud makes the edge send names that are not sealed",
        _EDGE,
        "elif found is not None and seal is not None and seals_names(found, seal.epoch):",
        "elif False:",
        (_NAMES,),
    ),
    Guarantee(
        "Nobody is said to be missing by a name under an outdated key",
        _EDGE,
        "headers = {CONTRACT_HEADER: subject.contract}",
        "headers: dict[str, str] = {}",
        (_NAMES,),
    ),
    Guarantee(
        "The threshold decides",
        _SHARED,
        "return score.value >= self.cosine.value",
        "return score.value >= self.cosine.value - 0.05",
        ("tests/shared/test_scores.py", _MATCHING),
    ),
    Guarantee(
        "A template of another contract is refused",
        _CLOUD,
        "if envelope.contract != gallery.contract_digest:",
        "if False:",
        ("tests/cloud_service/routes/test_refusals.py", _MATCHING),
    ),
    Guarantee(
        "An erased template matches nobody",
        _CLOUD,
        "delete(template).where(which).returning(template.c.id)",
        "select(template.c.id).where(which)",
        ("tests/cloud_service/routes/test_subjects_and_templates.py",),
    ),
    Guarantee(
        "An expired template matches nobody",
        _CLOUD,
        "return EVER if max_age_seconds is None else now - timedelta(seconds=max_age_seconds)",
        "return EVER",
        ("tests/cloud_service/record/test_retention.py",),
    ),
    Guarantee(
        "A subject that has expired matches nobody",
        _CLOUD,
        "subject.c.expires_at.is_(None) | (subject.c.expires_at > now)",
        "subject.c.id > 0",
        (f"{_SUBJECTS}/test_expiry.py",),
    ),
    Guarantee(
        "A gallery whose names are sealed takes no plain one",
        _CLOUD,
        "if any(name.startswith(SEALED) != pinned.sealed_names for name in names):",
        "if False:",
        (f"{_SUBJECTS}/test_sealed_names.py",),
    ),
    Guarantee(
        "A change of key seals all names",
        _CLOUD,
        '{"name": subject.c.next_name, "next_name": None, "version": version}',
        '{"next_name": None, "version": version}',
        (f"{_SUBJECTS}/test_sealed_names.py",),
    ),
    Guarantee(
        "No copy of a name is left in an index of SQLite",
        _CLOUD,
        "{0x0D: 8, 0x0A: 8, 0x02: 12}",
        "{0x0D: 8}",
        ("tests/cloud_service/erasure/test_erased_bytes.py",),
    ),
    Guarantee(
        "A late name is not said to be nobody's",
        _CLOUD,
        "if contract is not None and contract != pinned.contract_digest:",
        "if False:",
        (f"{_SUBJECTS}/test_moves.py",),
    ),
    Guarantee(
        "Who was merged and then erased does not come back with a backup",
        _CLOUD,
        'return its_own | template.c.uid.in_((erasure.moved or "").split())',
        "return its_own",
        ("tests/cloud_service/erasure/test_erasures_after_moves.py",),
    ),
    Guarantee(
        "A damaged template is not compared",
        _CLOUD,
        'sound &= rows["checksum"] == _checksums(values, weights, owners)',
        "sound &= len(owners) > 0",
        ("tests/cloud_service/record/test_checksums.py", "tests/cloud_service/record/test_damaged_templates.py"),
    ),
    Guarantee(
        "A mean that holds an erased template is overwritten in memory",
        _CLOUD,
        "index.remove(change.removed)",
        "pass",
        (_LIFE,),
    ),
    Guarantee(
        "A file of the index that holds such a mean is not kept",
        _CLOUD,
        "connection.execute(delete(segment_file).where(segment_file.c.id.in_(hit)))",
        "pass",
        (_LIFE, "tests/cloud_service/index/test_snapshots.py"),
    ),
    Guarantee(
        "Nobody is missed whose mean changes during a search",
        _CLOUD,
        "found = [lacking.ids, np.fromiter(connection.scalars(newer), np.int64)]",
        "found = [np.empty(0, np.int64)]",
        ("tests/cloud_service/entries/test_changes_during_a_search.py",),
    ),
    Guarantee(
        "The entries of the audit log are chained",
        _CLOUD,
        "fields = [seq, at, key_id, action, gallery, details, previous]",
        "fields = [seq, at, key_id, action, gallery, details]",
        ("tests/cloud_service/audit/test_audit.py",),
    ),
    Guarantee(
        "A wrong API key is refused",
        _SHARED,
        "right = hmac.compare_digest(_digest(parts[2]), found.digest if found else _NOBODY)",
        "right = True",
        ("tests/shared/security/test_api_keys.py", _KEYS),
    ),
    Guarantee(
        "A revoked API key is refused",
        _SHARED,
        "return found if found and right and found.revoked_at is None else None",
        "return found if found and right else None",
        ("tests/shared/security/test_api_keys.py",),
    ),
    Guarantee(
        "A key without the scope is refused",
        _SHARED,
        "if self._scopes and record.scopes.isdisjoint(self._scopes):",
        "if False:",
        (_KEYS,),
    ),
    Guarantee(
        "A key is for its galleries only",
        _SHARED,
        "return self.galleries is None or gallery in self.galleries",
        "return True",
        (_KEYS, "tests/cloud_service/routes/test_tenancy.py"),
    ),
    Guarantee(
        "Rate limits hold",
        _SHARED,
        "if more > 0 and not self._limiter.hit(",
        "if more < 0 and not self._limiter.hit(",
        ("tests/cloud_service/routes/test_rate_limits.py",),
    ),
    Guarantee(
        "Limits of bodies hold",
        _SHARED,
        "limit = self.limit_for(scope)",
        "limit = 1 << 40",
        ("tests/shared/http/test_middleware.py",),
    ),
)


def place_of(guarantee: Guarantee, tree: Path) -> Path:
    """The file with the code that keeps a guarantee.

    Raises:
        SetupError: the code is in no file, or in several places; or a file of tests is missing.
    """
    if missing := [test for test in guarantee.tests if not (tree / test).exists()]:
        raise SetupError(f"{guarantee.name}: there are no tests {missing}; correct {Path(__file__).name}.")
    found = [path for path in sorted((tree / guarantee.package).rglob("*.py")) if guarantee.code in path.read_text()]
    if len(found) != 1 or found[0].read_text().count(guarantee.code) != 1:
        raise SetupError(
            f"{guarantee.name}: the code to replace must be in one place of {guarantee.package}, and is in "
            f"{[path.name for path in found]}; write it anew in {Path(__file__).name}: {guarantee.code}"
        )
    return found[0]


def failures(tree: Path, tests: set[str]) -> list[str]:
    """The fast tests that fail in a tree, the first three.

    Raises:
        SetupError: pytest did not run.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "--hypothesis-profile=fast", "--maxfail=3"]
    ended = subprocess.run(
        [*command, *sorted(tests)],
        cwd=tree,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PATRONUS_MODELS": str(_ROOT / ".models")},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if ended.returncode not in {0, 1}:
        raise SetupError(f"pytest ended with status {ended.returncode}:\n{ended.stdout[-3000:]}{ended.stderr[-3000:]}")
    return list(dict.fromkeys(re.findall(r"^(?:FAILED|ERROR) ([^\s[]+)", ended.stdout, re.MULTILINE)))


@app.command()
def main(
    only: Annotated[str, typer.Option(help="Guarantees whose name has this word.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Look for the code only; run no test.")] = False,
) -> None:
    """Break each guarantee and run its tests; the exit status is 1 where they stay green."""
    console = Console(highlight=False)
    chosen = [one for one in GUARANTEES if only.lower() in one.name.lower()]
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in _COPIED:
            if (_ROOT / name).is_dir():
                shutil.copytree(_ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (_ROOT / name).exists():
                shutil.copy(_ROOT / name, tree / name)
        for guarantee in chosen:
            place_of(guarantee, tree)
        if check:
            return
        if failed := failures(tree, {test for one in chosen for test in one.tests}):
            raise SetupError(f"Before anything is broken, these tests must pass: {', '.join(failed)}")
        for guarantee in chosen:
            file = place_of(guarantee, tree)
            text = file.read_text()
            file.write_text(text.replace(guarantee.code, guarantee.broken))
            failed = failures(tree, set(guarantee.tests))
            file.write_text(text)
            unnoticed += not failed
            console.print(f"{guarantee.name}: " + (f"broken in {file.relative_to(tree)}, noticed by" if failed else ""))
            console.print("\n".join(f"  {one}" for one in failed) or "  NOT NOTICED", soft_wrap=True)
    if unnoticed:
        raise typer.Exit(1)


if __name__ == "__main__":
    run(app)
