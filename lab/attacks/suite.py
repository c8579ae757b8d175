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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from edge_service.models.files import write_whole
from edge_service.protection.profiles.document import ANY_EMBEDDER
from edge_service.protection.profiles.files import Profile, load_profile
from edge_service.vision.embed import EMBEDDERS, SFACE
from lab.attacks import linking, rebuilding, unsealing
from lab.attacks.attackers import FULL, QUICK, Attacker
from lab.attacks.bars import bars
from lab.attacks.frontier import frontier
from lab.attacks.inversion import rebuilt
from lab.attacks.maps import denoised
from lab.attacks.perceptual import Eye
from lab.attacks.reconstruction import as_pictures
from lab.attacks.replay import replayed
from lab.attacks.report import html
from lab.attacks.scene import KEY, OTHER_KEYS, TARGET, Scene
from lab.attacks.scopes import scopes
from lab.attacks.target import Target
from lab.data.embedders import Encoder, embed_images, open_encoder, unit
from lab.data.image_store import digest_of
from lab.data.images import read_folder
from lab.data.splits import TEST, gather
from lab.evaluation.trade_off import accuracy, as_json, cases, judge
from lab.evaluation.verification import all_impostors
from lab.torch_embedder.embedder import load_twin
from shared.errors import Conflict, SetupError

VERSION: Final = 1
_FILE: Final = "attack.json"
_LOCK: Final = ".lock"
_IMAGES: Final = "utkface112.tar"
# At which an embedder judges whose threshold nobody gave.
_JUDGED_AT: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Asked:
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
        asked: for.
        out: folder of the run.
        cache: for faces, embeddings and trained attackers.

    Raises:
        SetupError: the profile, the embedder or the faces are missing, or do not fit together.
        Conflict: the folder holds another run.
    """

    def __init__(self, asked: Asked, out: Path, cache: Path) -> None:
        self._asked, self._out, self._cache = asked, out, cache
        self._console = Console(stderr=True)
        self._began = time.monotonic()
        if asked.profiles is not None and not asked.profiles.is_dir():
            raise SetupError(f"There is no folder {asked.profiles} with profiles; see --profiles.")
        self._profile = load_profile(asked.profile, own=asked.profiles)
        self._encoder = encoder_of(self._profile, asked.embedder)
        self._tau = tau_of(self._profile, self._encoder, asked.tau)
        self._judges = _judges_of(asked.judges, self._encoder)
        self._effort = QUICK if asked.quick else FULL
        about = {
            "version": VERSION,
            "profile": self._profile.pin.model_dump(),
            "embedder": self._encoder.sha256,
            "effort": dataclasses.asdict(self._effort),
            "images": str(asked.images or ""),
            "people": str(asked.people),
            "judges": list(asked.judges),
            "portraits": str(asked.portraits or ""),
            "tau": asked.tau,
            "seed": asked.seed,
        }
        self._about: dict[str, Any] = json.loads(json.dumps(about))
        self._check()
        self._portraits = None
        if asked.portraits is not None:
            self._portraits = read_folder(asked.portraits, cache=cache, aligned=False)

    def run(self) -> Path:
        """Runs what is left to run, and writes the report.

        Returns:
            the path of report.html.

        Raises:
            Conflict: another process runs this attack in the same folder.
        """
        scene, digest = self._scene()
        self._write(_FILE, json.dumps(self._about, indent=1) + "\n")
        with (self._out / _LOCK).open("wb") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Conflict(f"Another attack runs in {self._out}; wait for it, or name another folder.") from None
            return self._run(scene, digest)

    def _run(self, scene: Scene, digest: str) -> Path:
        steps: dict[str, Callable[[], Any]] = {
            "accuracy": lambda: _accuracy(scene),
            "floors": lambda: rebuilding.floors(scene),
            "decoders": lambda: rebuilding.decoders(scene),
            "adaptive": lambda: rebuilding.adaptive(scene),
            "averaging": lambda: rebuilding.averaging(scene),
            "pairs": lambda: unsealing.pairs(scene) if scene.target.seals else [],
            "stolen": lambda: unsealing.stolen(scene) if scene.target.seals else None,
            "linkage": lambda: linking.linkage(scene),
            "scopes": lambda: scopes(scene),
            "membership": lambda: linking.membership(scene),
            "attributes": lambda: linking.attributes(scene),
            "frontier": lambda: frontier(scene),
            "inversion": lambda: rebuilding.inversion(scene),
            "replay": lambda: self._replay(scene),
        }
        found = {
            name: self._step(name, digest, attack, at, len(steps)) for at, (name, attack) in enumerate(steps.items())
        }
        profile = self._profile
        report = {
            "version": VERSION,
            "made": datetime.now(UTC).date().isoformat(),
            "quick": self._asked.quick,
            "profile": profile.pin.model_dump(),
            "seals": profile.seals,
            "layers": _layers(profile),
            "embedder": self._encoder.name,
            "tau": scene.tau,
            "people": len(scene.chosen.attacked),
            "pictures": len(scene.attacker.pictures),
            "lead": scene.attacker.lead(),
            "effort": dataclasses.asdict(self._effort),
            "seed": self._asked.seed,
            "judges": {name: judge.tau for name, judge in scene.judges.items()},
            **found,
        }
        report["bars"] = bars(report)
        page = html(report, self._gallery(scene))
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
        self._console.print(f"{at + 1} of {of}: {name} ... ({(time.monotonic() - self._began) / 60:.1f} min so far)")
        began = time.monotonic()
        try:
            found = json.loads(json.dumps(attack()))
        except KeyboardInterrupt:
            self._console.print(f"Stopped. The same command goes on with {name}.")
            raise
        kept = {"key": key, "digest": digest_of(found), "seconds": round(time.monotonic() - began, 1), "found": found}
        self._write(place, json.dumps(kept, indent=1) + "\n")
        return found

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

    def _scene(self) -> tuple[Scene, str]:
        asked, effort, encoder = self._asked, self._effort, self._encoder
        images = asked.images
        if images is None:
            beside = asked.people / _IMAGES
            images = beside if beside.is_file() else asked.people
        material = gather(
            images, asked.people, encoder, self._cache, pictures=effort.pictures, paired=asked.quick, seed=asked.seed
        )
        target = Target(self._profile)
        labelled = material.labelled
        chosen = cases(labelled, effort.attacked, seed=asked.seed)
        tau = self._tau
        judges = {TARGET: judge(encoder, tau, labelled.unit, chosen)}
        for other, threshold in self._judges:
            clean = unit(embed_images(labelled.images, other, cache=self._cache))
            at = all_impostors(clean, labelled.people).threshold_at(_JUDGED_AT) if threshold is None else threshold
            judges[other.name] = judge(other, at, clean, chosen)
        twin = load_twin(encoder.path, cache=self._cache)
        attacker = Attacker(material.pictures, material.learned, encoder, twin, effort, self._cache, asked.seed)
        wire = target.templates(labelled.unit)
        scene = Scene(
            attacker, labelled, target, tau, chosen, judges, Eye(twin), wire, target.opened(wire), seed=asked.seed
        )
        return scene, digest_of(material.pictures.digest, labelled.images.digest)

    def _replay(self, scene: Scene) -> dict[str, Any] | None:
        count = self._effort.replayed
        name = self._encoder.name
        if not count or name not in EMBEDDERS:
            return None
        few = scene.narrowed(count)
        pixels = scene.labelled.images.pixels
        best = scene.attacker.best()
        shown = {
            "another picture of the person": np.asarray(pixels[few.chosen.other]),
            "somebody else": np.asarray(pixels[few.strangers()]),
            "rebuilt from an unprotected embedding": as_pictures(rebuilt(best, few.of_cases(scene.clean))),
            "rebuilt from the stored template": as_pictures(rebuilt(best, few.of_cases(scene.wire))),
        }
        if scene.target.seals:
            decoder = rebuilding.adapted(scene, KEY)
            shown["rebuilt from the stored template, key stolen"] = as_pictures(
                rebuilt(decoder, few.of_cases(scene.opened))
            )
        enrolled = np.asarray(pixels[few.chosen.attacked])
        asked = self._asked
        return replayed(enrolled, shown, profile=asked.profile, profiles=asked.profiles, embedder=name)

    def _gallery(self, scene: Scene) -> dict[str, NDArray[np.uint8]] | None:
        """Portraits and what attackers make of them, by column: (m, 112, 112, 3) each; None without portraits."""
        faces = self._portraits
        if faces is None:
            return None
        embedded = unit(self._encoder.embed(faces.pixels))
        wire = scene.target.templates(embedded)
        attacker, best = scene.attacker, scene.attacker.best()
        columns = {
            "picture": np.asarray(faces.pixels),
            "from its embedding": as_pictures(rebuilt(best, embedded)),
            "from the stored template": as_pictures(rebuilt(best, wire)),
        }
        adapted = rebuilding.adapted(scene, OTHER_KEYS)
        columns["the same, learned on templates of other keys"] = as_pictures(rebuilt(adapted, wire))
        if scene.target.seals:
            opened = scene.target.opened(wire)
            denoiser = attacker.denoiser(rebuilding.learned_on(scene, KEY))
            columns["key stolen, denoised"] = as_pictures(rebuilt(best, denoised(denoiser, opened)))
        return columns


def encoder_of(profile: Profile, wanted: str | None) -> Encoder:
    """The embedder that a profile is for, or the one wanted where it is for any.

    Raises:
        SetupError: the profile is for another one.
    """
    document = profile.document
    name = wanted or (SFACE.name if document.embedder == ANY_EMBEDDER else document.embedder)
    if wanted is None and document.embedder != ANY_EMBEDDER and name not in EMBEDDERS:
        raise SetupError(
            f"The profile {document.name} is for {name}, an embedder of one's own; name its file: --embedder."
        )
    encoder = open_encoder(name)
    if document.embedder_sha256 not in (None, encoder.sha256):
        raise SetupError(
            f"The profile {document.name} is for the embedder {document.embedder} (SHA-256 "
            f"{(document.embedder_sha256 or '')[:12]}…), and {encoder.name} is another one ({encoder.sha256[:12]}…)."
        )
    return encoder


def tau_of(profile: Profile, encoder: Encoder, asked: float | None) -> float:
    """The cosine threshold that a profile was calibrated at, else the one asked for, else the embedder's.

    Raises:
        SetupError: the profile's is another one than the one asked for, or there is none.
    """
    threshold = profile.document.threshold
    if threshold is not None:
        if asked not in (None, threshold.cosine):
            raise SetupError(
                f"The profile {profile.document.name} was calibrated at cosine {threshold.cosine:g}; leave --tau out."
            )
        return threshold.cosine
    tau = encoder.tau if asked is None else asked
    if tau is None:
        raise SetupError(f"The threshold of {encoder.name} is not known; give your system's with --tau.")
    return tau


def _judges_of(asked: tuple[str, ...], target: Encoder) -> list[tuple[Encoder, float | None]]:
    """The judges and their thresholds; None: at a false match rate of its own."""
    found: list[tuple[Encoder, float | None]] = []
    for said in asked:
        name, given, tau = said.partition("=")
        try:
            threshold = float(tau) if given else None
        except ValueError:
            threshold = float("nan")
        if not name or (threshold is not None and not -1 < threshold < 1):
            raise SetupError(
                f"A judge is given as NAME_OR_PATH or NAME_OR_PATH=TAU, with TAU a cosine; this is {said!r}."
            )
        encoder = open_encoder(name)
        if encoder.name in [target.name, *(other.name for other, _ in found)]:
            raise SetupError(f"{encoder.name} judges already; name each judge once.")
        found.append((encoder, threshold))
    return found


def _accuracy(scene: Scene) -> dict[str, Any]:
    """At the unchanged threshold, on people who test, both sides protected."""
    rows = scene.labelled.rows(TEST)
    found = {"clean": scene.clean, "protected": scene.wire}
    return {name: as_json(accuracy(scene.labelled, made, made, rows, scene.tau)) for name, made in found.items()}


def _layers(profile: Profile) -> list[str]:
    step = profile.document.patronus
    return [*(step.layers if step is not None else []), *(["seal"] if profile.seals else [])]
