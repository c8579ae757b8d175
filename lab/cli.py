"""``patronus lab``: from one's own pictures to a protection profile, and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.command import finite

app = typer.Typer(no_args_is_help=True)


@app.callback()
def needs() -> None:
    """Train, calibrate, evaluate and export protection profiles."""
    from importlib.util import find_spec

    from shared.errors import SetupError

    missing = [name for name in ("torch", "skimage") if find_spec(name) is None]
    if missing:
        raise SetupError(f"The lab needs {' and '.join(missing)}, which are not installed; run: pip install '.[lab]'")


_Out = Annotated[Path, typer.Option("--out", help="Folder of the training; a second call goes on where it stopped.")]
_Embedder = Annotated[str | None, typer.Option(help="For a profile that is for any embedder, or your own.")]
_Tau = Annotated[
    float | None,
    typer.Option(
        callback=finite, min=-1, max=1, help="Cosine threshold, where the profile names none. [default: the embedder's]"
    ),
]
_Profiles = Annotated[Path | None, typer.Option(help="Your own folder of profiles.")]
_Cache = Annotated[Path, typer.Option(help="Folder for decoded faces and embeddings, shared by all trainings.")]
_RUN, _CACHE = Path("lab-run"), Path(".lab")


@app.command()
def train(
    images: Annotated[Path, typer.Option(help="Faces for attackers to learn on: a folder of pictures, or a tar.")],
    people: Annotated[
        Path | None,
        typer.Option(help="Labelled faces, a sub-folder a person; LFW with its pairs. Default: the images' own."),
    ] = None,
    terms: Annotated[str, typer.Option(help="On what terms the pictures may be used; goes into the model card.")] = "",
    profile: Annotated[str, typer.Option(help="Name of the profile.")] = "own",
    embedder: Annotated[str, typer.Option(help="An embedder of the edge, or the path of an .onnx file.")] = "",
    tau: Annotated[
        float | None, typer.Option(callback=finite, help="Cosine threshold of your system. Default: the embedder's.")
    ] = None,
    plugin: Annotated[
        bool, typer.Option("--plugin", help="Perturb probes alone, for a gallery that stays unprotected.")
    ] = False,
    phi_max: Annotated[float | None, typer.Option(callback=finite, help="Largest angle to train for, degrees.")] = None,
    rounds: Annotated[int, typer.Option(min=0, max=5, help="Times that attackers are retrained.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of everything.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Minutes instead of hours; protects badly.")] = False,
    out: _Out = _RUN,
    cache: _Cache = _CACHE,
) -> None:
    """Train attackers, and the network that spoils their work."""
    from pydantic import ValidationError

    from edge_service.protection.profiles.files import available
    from edge_service.vision.embed import SFACE
    from lab.data.embedders import open_encoder
    from lab.defence.recipe import Recipe
    from lab.defence.runs import Run, attacker_options, perturbation_options
    from shared.errors import SetupError

    if profile in available():
        raise typer.BadParameter("a profile of this name comes with Patronus; take another", param_hint="--profile")
    embedder = embedder or SFACE.name
    encoder = open_encoder(embedder)
    threshold = encoder.tau if tau is None else tau
    if threshold is None:
        raise SetupError(f"The threshold of {embedder} is not known; give your system's cosine threshold with --tau.")
    what = "Perturbs probes, for a gallery that stays as it is" if plugin else "Erases, perturbs and seals"
    try:
        recipe = Recipe(
            name=profile,
            summary=f"{what}; trained with patronus lab.",
            embedder=embedder,
            tau=threshold,
            sides="probe" if plugin else "both",
            seal=not plugin,
            images=str(images),
            people=str(people or images),
            terms=terms,
            phi_max=phi_max if phi_max is not None else (15.0 if plugin else 75.0),
            slope=1.5 if plugin else None,
            fnmr_rise=0.005 if plugin else 0.01,
            rounds=rounds,
            attackers=attacker_options(quick=quick),
            perturbation=perturbation_options(quick=quick),
            seed=seed,
        )
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        option = {"name": "--profile", "phi_max": "--phi-max"}.get(str(first["loc"][0]), f"--{first['loc'][0]}")
        raise typer.BadParameter(first["msg"], param_hint=option) from None
    run = Run(out, cache, recipe)
    recipe.check(out)
    # The faces first: where they are too few, no folder is begun.
    run.material()
    recipe.write(out)
    run.train()
    typer.echo(f"Trained. Next: patronus lab calibrate --out {out}")


@app.command()
def calibrate(out: _Out = _RUN, cache: _Cache = _CACHE) -> None:
    """Find how far the trained network may turn at the unchanged threshold."""
    from lab.defence.runs import Run

    found = Run.open(out, cache).calibrate()
    certified = "none: too few people" if found.certified is None else f"{found.certified:.2f} degrees"
    typer.echo(f"statistical budget  {found.phi_max:.1f} degrees a side, on {found.people} people")
    typer.echo(f"certified budget    {certified} (at most {found.alpha:.0%} of decisions, whoever chooses the turns)")
    typer.echo(f"no margin (phi = 0) {found.no_margin:.2%} of faces")
    typer.echo(f"Next: patronus lab evaluate --out {out}")


@app.command()
def evaluate(
    judge: Annotated[
        list[str] | None,
        typer.Option(help="Another embedder that judges rebuilt faces, as NAME_OR_PATH=TAU; may be given again."),
    ] = None,
    most: Annotated[int | None, typer.Option(min=20, help="People to attack at most. Default: all.")] = None,
    out: _Out = _RUN,
    cache: _Cache = _CACHE,
) -> None:
    """Measure accuracy at the threshold, and what attackers rebuild, on people who took no part.

    Where the names of the training's pictures hold age, sex and group, as UTKFace's do, also false matches by these.
    """
    from lab.defence.runs import Run
    from lab.evaluation.evaluate import evaluate_run, table

    run = Run.open(out, cache)
    found = evaluate_run(run, judge or [], most)
    run.write("evaluation.json", found)
    typer.echo(table(found))
    typer.echo(f"Next: patronus lab export --out {out}")


@app.command()
def demographics(
    images: Annotated[
        Path, typer.Argument(help="Folder or tar of faces named AGE_SEX_GROUP_NUMBER.jpg, as UTKFace's are.")
    ],
    profile: Annotated[str, typer.Option(help="The profile to measure.")] = "default",
    profiles: _Profiles = None,
    embedder: _Embedder = None,
    tau: _Tau = None,
    most: Annotated[
        int | None,
        typer.Option(min=0, help="Pictures of each age band at most, drawn at random; 0: all. [default: 900]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write all figures, as JSON.")] = None,
    card: Annotated[Path | None, typer.Option(help="Also write the table into this model card.")] = None,
    cache: _Cache = _CACHE,
) -> None:
    """Measure how often people of one age, sex or group are taken for each other, under a finished profile."""
    import json

    from edge_service.models.files import write_whole
    from edge_service.protection.profiles import load_profile
    from lab.attacks.target import encoder_of, tau_of
    from lab.evaluation.demographic_figures import measure_profile, table
    from lab.evaluation.demographics import MOST_A_BAND
    from lab.export.model_card import with_demographics

    chosen = load_profile(profile, own=profiles)
    encoder = encoder_of(chosen, embedder)
    limit = MOST_A_BAND if most is None else most or None
    found = measure_profile(chosen, encoder, tau_of(chosen, encoder, tau), images, cache=cache, most=limit)
    typer.echo(table(found))
    if out is not None:
        write_whole(out, (json.dumps(found, indent=1) + "\n").encode())
    if card is not None:
        write_whole(card, with_demographics(card.read_text(), found).encode())


@app.command()
def export(
    to: Annotated[Path, typer.Option(help="Folder of profiles; the edge reads it as PATRONUS_EDGE__PROFILES.")] = Path(
        "profiles"
    ),
    replace: Annotated[bool, typer.Option("--replace", help="Replace a profile of this name.")] = False,
    out: _Out = _RUN,
    cache: _Cache = _CACHE,
) -> None:
    """Write the profile: ONNX, document and model card."""
    from lab.defence.runs import Run
    from lab.export.export_profile import export_profile

    profile = export_profile(Run.open(out, cache), to, replace=replace)
    typer.echo(f"Wrote {to / profile.document.name} (SHA-256 {profile.pin.sha256[:12]}…).")


@app.command()
def figures(
    portraits: Annotated[Path, typer.Option(help="Pictures whose publication nobody minds; their faces are shown.")],
    to: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("figures"),
    out: _Out = _RUN,
    cache: _Cache = _CACHE,
) -> None:
    """Draw what a breach gives back, the angles, and accuracy over the angle."""
    from lab.defence.runs import Run
    from lab.evaluation.figures import draw

    for path in draw(Run.open(out, cache), portraits, to):
        typer.echo(path)


@app.command()
def attack(
    out: Annotated[Path, typer.Option("--out", help="Folder of the attack; a second call goes on where it stopped.")],
    profile: Annotated[str, typer.Option(help="The profile to attack.")] = "default",
    profiles: _Profiles = None,
    people: Annotated[
        Path | None,
        typer.Option(envvar="PATRONUS_FACE_DATA", help="Labelled faces, a sub-folder a person; LFW with its pairs."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="The attacker's own faces, of other people. Default: utkface112.tar beside the people."),
    ] = None,
    embedder: _Embedder = None,
    tau: _Tau = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="Another embedder that judges rebuilt faces, NAME_OR_PATH or NAME_OR_PATH=TAU; repeatable."),
    ] = None,
    portraits: Annotated[
        Path | None, typer.Option(help="Pictures whose publication nobody minds; shown with what is rebuilt of them.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Minutes instead of hours; attackers too weak to publish.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of everything.")] = 0,
    cache: _Cache = _CACHE,
) -> None:
    """Attack a profile in every way we know, and write one report."""
    from lab.attacks.suite import AttackOptions, Suite

    if people is None:
        raise typer.BadParameter("name the faces to attack, or set PATRONUS_FACE_DATA", param_hint="--people")
    options = AttackOptions(
        profile, profiles, images, people, embedder, tau, tuple(judge or ()), portraits, quick, seed
    )
    typer.echo(Suite(options, out, cache).run())
