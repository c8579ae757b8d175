"""``patronus lab attack``: all attacks on a profile, one after the other, each kept when it is done.

::

    attack.json        what was asked for
    steps/NAME.json    the outcome of each attack
    report.json        all of it, when all are done
    report.html        the same for people

A run that was interrupted goes on with the attack that it was at. There is no report before every attack has ended.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from edge_service.models.files import write_whole
from edge_service.protection.profiles.files import Profile, load_profile
from edge_service.vision.embed import EMBEDDERS
from lab.attacks import key_recovery, linkage, rebuilding
from lab.attacks.attackers import FULL, QUICK, Attacker, denoised
from lab.attacks.frontier import frontier
from lab.attacks.replay import replayed
from lab.attacks.report import bars, render
from lab.attacks.scopes import scopes
from lab.attacks.target import KEY, OTHER_KEYS, AttackContext, Target, encoder_of, tau_of
from lab.data.embedders import unit
from lab.data.image_store import digest_of
from lab.data.images import read_folder
from lab.data.splits import TEST, gather
from lab.data.torch_embedder import load_torch_embedder
from lab.defence.decoders import rebuilt
from lab.evaluation.accuracy import accuracy
from lab.evaluation.perceptual import FacePerception
from lab.evaluation.reconstruction import TARGET, as_pictures, attacked_pairs, judges_of, named_judges
from shared.errors import Conflict, SetupError

VERSION: Final = 2
_FILE: Final = "attack.json"
_LOCK: Final = ".lock"
_IMAGES: Final = "utkface112.tar"
# Stages before the attacks: the faces and their embeddings.
_BEFORE: Final = 1
_ATTACKS: Final = 14


@dataclass(frozen=True, slots=True)
class AttackOptions:
    """What is attacked, with what.

    Attributes:
        profile: its name.
        profiles: the operator's own folder of profiles.
        images: the attacker's own pictures; None: UTKFace beside the people where it is, else the people's own.
        people: labelled people, as for ``patronus lab train``.
        embedder: for a profile that is for any; None: the profile's own.
        tau: cosine threshold, where neither the profile nor the embedder names one.
        judges: further embedders, ``NAME_OR_PATH`` or ``NAME_OR_PATH=TAU``.
        portraits: folder of pictures whose publication nobody minds, to show what comes of them.
        quick: minutes instead of hours.
        seed: of everything.
    """

    profile: str
    profiles: Path | None
    images: Path | None
    people: Path
    embedder: str | None
    tau: float | None
    judges: tuple[str, ...]
    portraits: Path | None
    quick: bool
    seed: int


class Suite:
    """A run in its folder.

    Args:
        options: for.
        out: folder of the run.
        cache: for faces, embeddings and trained attackers.

    Raises:
        SetupError: the profile, the embedder or the faces are missing, or do not fit together.
        Conflict: the folder holds another run.
    """

    def __init__(self, options: AttackOptions, out: Path, cache: Path) -> None:
        self._options, self._out, self._cache = options, out, cache
        self._console = Console(stderr=True)
        self._began = time.monotonic()
        if options.profiles is not None and not options.profiles.is_dir():
            raise SetupError(f"There is no folder {options.profiles} with profiles; see --profiles.")
        self._profile = load_profile(options.profile, own=options.profiles)
        self._encoder = encoder_of(self._profile, options.embedder)
        self._tau = tau_of(self._profile, self._encoder, options.tau)
        self._judges = named_judges(options.judges, {TARGET, self._encoder.name}, needs_tau=False)
        self._effort = QUICK if options.quick else FULL
        about = {
            "version": VERSION,
            "profile": self._profile.pin.model_dump(),
            "embedder": self._encoder.sha256,
            "effort": dataclasses.asdict(self._effort),
            "images": str(options.images or ""),
            "people": str(options.people),
            "judges": list(options.judges),
            "portraits": str(options.portraits or ""),
            "tau": options.tau,
            "seed": options.seed,
        }
        self._about: dict[str, Any] = json.loads(json.dumps(about))
        self._check()
        self._portraits = None
        if options.portraits is not None:
            self._portraits = read_folder(options.portraits, cache=cache, aligned=False)

    def run(self) -> Path:
        """Runs what is left to run, and writes the report.

        Returns:
            the path of report.html.

        Raises:
            Conflict: another process runs this attack in the same folder.
        """
        self._say(0, _ATTACKS + _BEFORE, "faces and embeddings")
        context, digest = self._context()
        self._write(_FILE, json.dumps(self._about, indent=1) + "\n")
        with (self._out / _LOCK).open("wb") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Conflict(f"Another attack runs in {self._out}; wait for it, or name another folder.") from None
            return self._run(context, digest)

    def _run(self, context: AttackContext, digest: str) -> Path:
        steps: dict[str, Callable[[], Any]] = {
            "accuracy": lambda: _accuracy(context),
            "floors": lambda: rebuilding.floors(context),
            "decoders": lambda: rebuilding.decoders(context),
            "adaptive": lambda: rebuilding.adaptive(context),
            "averaging": lambda: rebuilding.averaging(context),
            "pairs": lambda: key_recovery.pairs(context) if context.target.seals else [],
            "stolen": lambda: key_recovery.stolen(context) if context.target.seals else None,
            "linkage": lambda: linkage.linkage(context),
            "scopes": lambda: scopes(context),
            "membership": lambda: linkage.membership(context),
            "attributes": lambda: linkage.attributes(context),
            "frontier": lambda: frontier(context),
            "inversion": lambda: rebuilding.inversion(context),
            "replay": lambda: self._replay(context),
        }
        found = {
            name: self._step(name, digest, attack, at, len(steps)) for at, (name, attack) in enumerate(steps.items())
        }
        profile = self._profile
        report = {
            "version": VERSION,
            "made": datetime.now(UTC).date().isoformat(),
            "quick": self._options.quick,
            "profile": profile.pin.model_dump(),
            "seals": profile.seals,
            "layers": _layers(profile),
            "embedder": self._encoder.name,
            "tau": context.tau,
            "people": len(context.attacked),
            "pictures": len(context.attacker.pictures),
            "lead": context.attacker.lead(),
            "effort": dataclasses.asdict(self._effort),
            "seed": self._options.seed,
            "judges": {name: judge.tau for name, judge in context.judges.items()},
            **found,
        }
        report["bars"] = bars(report)
        page = render(report, self._gallery(context))
        self._write("report.json", json.dumps(report, indent=1) + "\n")
        self._write("report.html", page)
        return self._out / "report.html"

    def _check(self) -> None:
        out, path = self._out, self._out / _FILE
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            if out.is_dir() and any(out.iterdir()):
                raise Conflict(
                    f"{out} holds other files, and no attack; name a folder of its own with --out."
                ) from None
            return
        except OSError as problem:
            raise SetupError(f"{path} cannot be read ({problem.strerror}); name another folder with --out.") from None
        try:
            before = json.loads(content)
        except ValueError:
            before = None
        if not isinstance(before, dict):
            raise SetupError(f"{path} is damaged; remove {out}, or name another folder with --out.")
        differing = [name for name in self._about if before.get(name) != self._about[name]]
        if differing:
            raise Conflict(
                f"{out} holds an attack with another {', '.join(differing)}; name another folder with --out, or "
                "remove it."
            )

    def _write(self, name: str, text: str) -> None:
        path = self._out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise SetupError(f"{path} cannot be written ({problem.strerror}); choose another --out.") from None
        write_whole(path, text.encode())

    def _step(self, name: str, digest: str, attack: Callable[[], Any], at: int, of: int) -> Any:
        place = f"steps/{name}.json"
        key = digest_of("attack step", VERSION, self._about, digest, name)
        kept = self._kept(place, key)
        if kept is not None:
            return kept["found"]
        self._say(at + _BEFORE, of + _BEFORE, name)
        began = time.monotonic()
        found = json.loads(json.dumps(attack()))
        kept = {"key": key, "digest": digest_of(found), "seconds": round(time.monotonic() - began, 1), "found": found}
        self._write(place, json.dumps(kept, indent=1) + "\n")
        return found

    def _say(self, at: int, of: int, name: str) -> None:
        minutes = (time.monotonic() - self._began) / 60
        self._console.print(f"stage {at + 1} of {of}: {name} ({minutes:.1f} min so far)", soft_wrap=True)

    def _kept(self, place: str, key: str) -> dict[str, Any] | None:
        """A step that was kept whole, of this very attack; None: it is to be run."""
        path = self._out / place
        try:
            kept: dict[str, Any] = json.loads(path.read_bytes())
            if kept["key"] != key:
                return None
            if kept["digest"] == digest_of(kept["found"]):
                return kept
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            pass
        except OSError as problem:
            raise SetupError(f"{path} cannot be read ({problem.strerror}); remove it.") from None
        self._console.print(f"{path} is damaged; this step is run again.", soft_wrap=True)
        return None

    def _context(self) -> tuple[AttackContext, str]:
        options, effort, encoder = self._options, self._effort, self._encoder
        images = options.images
        if images is None:
            beside = options.people / _IMAGES
            images = beside if beside.is_file() else options.people
        material = gather(
            images,
            options.people,
            encoder,
            self._cache,
            pictures=effort.pictures,
            paired=options.quick,
            seed=options.seed,
        )
        target = Target(self._profile)
        labelled = material.labelled
        attacked, other = attacked_pairs(labelled, effort.attacked, seed=options.seed)
        embedder = load_torch_embedder(encoder.path, cache=self._cache)
        attacker = Attacker(material.pictures, material.learned, encoder, embedder, effort, self._cache, options.seed)
        wire = target.templates(labelled.unit)
        context = AttackContext(
            labelled=labelled,
            attacked=attacked,
            other=other,
            judges=judges_of(labelled, encoder, self._tau, self._judges, self._cache),
            perception=FacePerception(embedder),
            attacker=attacker,
            target=target,
            tau=self._tau,
            wire=wire,
            opened=target.opened(wire),
            seed=options.seed,
        )
        return context, digest_of(material.pictures.digest, labelled.images.digest)

    def _replay(self, context: AttackContext) -> dict[str, Any] | None:
        count = self._effort.replayed
        name = self._encoder.name
        if not count or name not in EMBEDDERS:
            return None
        few = context.narrowed(count)
        pixels = context.labelled.images.pixels
        best = context.attacker.best()
        shown = {
            "other photo of the person": np.asarray(pixels[few.other]),
            "somebody else": np.asarray(pixels[few.strangers()]),
            "rebuilt from an unprotected embedding": as_pictures(rebuilt(best, few.of_cases(context.clean))),
            "rebuilt from the stored template": as_pictures(rebuilt(best, few.of_cases(context.wire))),
        }
        if context.target.seals:
            decoder = rebuilding.adapted(context, KEY)
            shown["rebuilt from the stored template, key stolen"] = as_pictures(
                rebuilt(decoder, few.of_cases(context.opened))
            )
        enrolled = np.asarray(pixels[few.attacked])
        options = self._options
        return replayed(enrolled, shown, profile=options.profile, profiles=options.profiles, embedder=name)

    def _gallery(self, context: AttackContext) -> dict[str, NDArray[np.uint8]] | None:
        """Portraits and what attackers make of them, by column: (m, 112, 112, 3) each; None without portraits."""
        faces = self._portraits
        if faces is None:
            return None
        embedded = unit(self._encoder.embed(faces.pixels))
        wire = context.target.templates(embedded)
        attacker, best = context.attacker, context.attacker.best()
        columns = {
            "picture": np.asarray(faces.pixels),
            "from its embedding": as_pictures(rebuilt(best, embedded)),
            "from the stored template": as_pictures(rebuilt(best, wire)),
        }
        adapted = rebuilding.adapted(context, OTHER_KEYS)
        columns["the same, learned on templates of other keys"] = as_pictures(rebuilt(adapted, wire))
        if context.target.seals:
            opened = context.target.opened(wire)
            denoiser = attacker.denoiser(rebuilding.learned_on(context, KEY))
            columns["key stolen, denoised"] = as_pictures(rebuilt(best, denoised(denoiser, opened)))
        return columns


def _accuracy(context: AttackContext) -> dict[str, Any]:
    """At the unchanged threshold, on people who test, both sides protected."""
    rows = context.labelled.rows(TEST)
    found = {"clean": context.clean, "protected": context.wire}
    return {name: asdict(accuracy(context.labelled, made, made, rows, context.tau)) for name, made in found.items()}


def _layers(profile: Profile) -> list[str]:
    step = profile.document.patronus
    return [*(step.layers if step is not None else []), *(["seal"] if profile.seals else [])]
