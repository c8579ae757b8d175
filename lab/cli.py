"""``patronus lab``: trains a protection profile on your own pictures, and measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.command import finite

app = typer.Typer(no_args_is_help=True)


@app.callback()
def needs() -> None:
    """Train, calibrate, evaluate and export protection profiles."""
    import sys
    from importlib.util import find_spec

    from shared.errors import SetupError

    missing = [name for name in ("torch", "skimage") if find_spec(name) is None]
    if missing and "--help" not in sys.argv:
        raise SetupError(f"The lab needs {' and '.join(missing)}, which are not installed; run: make lab")


_Out = Annotated[Path, typer.Option("--out", help="Folder of the training; a second call resumes it.")]
_Embedder = Annotated[str | None, typer.Option(help="Embedder to use, if the profile fits any embedder or your own.")]
_Tau = Annotated[
    float | None,
    typer.Option(
        callback=finite, min=-1, max=1, help="Cosine threshold, if the profile has none. [default: the embedder's]"
    ),
]
_Profiles = Annotated[Path | None, typer.Option(help="Your own folder of profiles.")]
_Cache = Annotated[Path, typer.Option(help="Folder for decoded faces and embeddings, shared by all trainings.")]
_RUN, _CACHE = Path("lab-run"), Path(".lab")


@app.command()
def train(
    images: Annotated[Path, typer.Option(help="Faces that attackers learn on: a folder of pictures, or a tar.")],
    people: Annotated[
        Path | None,
        typer.Option(help="Labeled faces, one sub-folder per person, or LFW with its pairs. Default: the images."),
    ] = None,
    more_people: Annotated[
        Path | None,
        typer.Option(help="Further labeled people with many pictures each, who help to fit the erase step."),
    ] = None,
    terms: Annotated[str, typer.Option(help="Terms of use of the pictures, for the model card.")] = "",
    profile: Annotated[str, typer.Option(help="Name of the profile.")] = "own",
    summary: Annotated[str, typer.Option(help="One sentence for the people who choose the profile.")] = "",
    embedder: Annotated[str, typer.Option(help="An embedder of the edge, or the path of an .onnx file.")] = "",
    tau: Annotated[
        float | None, typer.Option(callback=finite, help="Cosine threshold of your system. Default: the embedder's.")
    ] = None,
    plugin: Annotated[
        bool, typer.Option("--plugin", help="Perturb probes only, for a gallery that stays unprotected.")
    ] = False,
    phi_max: Annotated[
        float | None, typer.Option(callback=finite, help="Largest angle to train for, in degrees.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, max=5, help="How often attackers are retrained.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of all random draws.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Train for minutes, not hours; gives weak protection.")
    ] = False,
    out: _Out = _RUN,
    cache: _Cache = _CACHE,
) -> None:
    """Train decoders as attackers, and the network that perturbs embeddings against them."""
    from pydantic import ValidationError

    from edge_service.protection.profiles.files import available
    from edge_service.vision.embed import SFACE
    from lab.data.embedders import open_encoder
    from lab.defence.decoders import InversionOptions
    from lab.defence.perturbation import PerturbationOptions
    from lab.defence.recipe import Recipe
    from lab.defence.runs import Run
    from lab.progress import continued_by_same_command
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
            summary=summary or f"{what}; trained with patronus lab.",
            embedder=embedder,
            tau=threshold,
            sides="probe" if plugin else "both",
            seal=not plugin,
            images=str(images),
            people=str(people or images),
            more_people=None if more_people is None else str(more_people),
            terms=terms,
            phi_max=phi_max if phi_max is not None else (15.0 if plugin else 75.0),
            slope=1.5 if plugin else None,
            fnmr_rise=0.005 if plugin else 0.01,
            rounds=rounds,
            attackers=InversionOptions(epochs=0.2, identity_steps=10) if quick else InversionOptions(),
            perturbation=PerturbationOptions(steps=5, warm_up=50) if quick else PerturbationOptions(),
            seed=seed,
        )
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        option = {"name": "--profile", "phi_max": "--phi-max"}.get(str(first["loc"][0]), f"--{first['loc'][0]}")
        raise typer.BadParameter(first["msg"], param_hint=option) from None
    run = Run(out, cache, recipe)
    recipe.check(out)
    # The faces first: where they are too few, no folder is begun.
    with continued_by_same_command():
        run.material()
        recipe.write(out)
        run.train()
    typer.echo(f"Trained. Next: patronus lab calibrate --out {out}")


@app.command()
def calibrate(out: _Out = _RUN, cache: _Cache = _CACHE) -> None:
    """Find the largest angle at which the unchanged threshold still holds."""
    from lab.defence.runs import Run

    found = Run.open(out, cache).calibrate()
    certified = "none: too few people" if found.certified is None else f"{found.certified:.2f} degrees"
    typer.echo(f"statistical budget  {found.phi_max:.1f} degrees a side, on {found.people} people")
    typer.echo(f"certified budget    {certified} (at most {found.alpha:.0%} of decisions change, for any directions)")
    typer.echo(f"no margin (phi = 0) {found.no_margin:.2%} of faces")
    typer.echo(f"Next: patronus lab evaluate --out {out}")


@app.command()
def evaluate(
    judge: Annotated[
        list[str] | None,
        typer.Option(help="Further embedder that rebuilt faces are matched with, as NAME_OR_PATH=TAU; repeatable."),
    ] = None,
    most: Annotated[int | None, typer.Option(min=20, help="Largest number of people to attack. Default: all.")] = None,
    out: _Out = _RUN,
    cache: _Cache = _CACHE,
) -> None:
    """Measure accuracy at the threshold, and rebuilt faces, on people not used in training.

    Also measures false matches by age, sex and group, if the pictures are named as UTKFace's are.
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
    profile: Annotated[str, typer.Option(help="The profile to measure.")] = "default-2",
    profiles: _Profiles = None,
    embedder: _Embedder = None,
    tau: _Tau = None,
    most: Annotated[
        int | None,
        typer.Option(min=0, help="Largest number of pictures per age band, drawn at random; 0: all. [default: 900]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write all figures, as JSON.")] = None,
    card: Annotated[Path | None, typer.Option(help="Also write the table into this model card.")] = None,
    cache: _Cache = _CACHE,
) -> None:
    """Measure false match rates by age, sex and group under a finished profile."""
    import json

    from edge_service.models.files import write_whole
    from edge_service.protection.profiles.files import load_profile
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
def measure(
    people: Annotated[
        Path | None,
        typer.Option(
            envvar="PATRONUS_FACE_DATA", help="Labeled faces, one sub-folder per person, or LFW with its pairs."
        ),
    ] = None,
    more_people: Annotated[Path | None, typer.Option(help="Further labeled people with many pictures each.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Faces of others, named AGE_SEX_GROUP_NUMBER.jpg, as UTKFace's are.")
    ] = None,
    profile: Annotated[str, typer.Option(help="The profile to measure; seal: the embedder alone.")] = "default-2",
    profiles: _Profiles = None,
    embedder: _Embedder = None,
    tau: _Tau = None,
    out: Annotated[Path | None, typer.Option(help="Also write all figures, as JSON.")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write score, curves and cost into your own profile, and its model card.")
    ] = False,
    cache: _Cache = _CACHE,
) -> None:
    """Calibrate the score of subjects with several pictures, and measure curves and cost of a finished profile."""
    import json

    from edge_service.models.files import write_whole
    from edge_service.protection.profiles.files import load_profile
    from lab.attacks.target import encoder_of, tau_of
    from lab.evaluation.subjects.faces import Sources
    from lab.evaluation.subjects.measure import measure as measured
    from lab.export.measured import refuse_shipped, write_measured
    from lab.export.measured_tables import tables_of

    if people is None:
        raise typer.BadParameter("name labeled faces, or set PATRONUS_FACE_DATA", param_hint="--people")
    chosen = load_profile(profile, own=profiles)
    if write:
        refuse_shipped(chosen)
    encoder = encoder_of(chosen, embedder)
    found = measured(chosen, encoder, tau_of(chosen, encoder, tau), Sources(people, more_people, images, cache))
    typer.echo(tables_of(found))
    if out is not None:
        write_whole(out, (json.dumps(found) + "\n").encode())
    if write and profiles is not None:
        made = write_measured(chosen, profiles, found)
        if out is not None:  # the profile that is measured is the one with its figures in it
            write_whole(out, (json.dumps(found | {"profile_sha256": made.pin.sha256}) + "\n").encode())
        typer.echo(
            f"Wrote {profiles / profile} (SHA-256 {made.pin.sha256[:12]}…). Galleries made under the profile as it was "
            "need it as it was."
        )


@app.command()
def tables(
    pages: Annotated[list[Path], typer.Argument(help="Markdown with <!-- measured: KIND NAME --> before its tables.")],
    measured: Annotated[
        list[Path], typer.Option(help="JSON of patronus lab measure --out; NAME is its stem; repeatable.")
    ],
    figures: Annotated[Path | None, typer.Option(help="Folder for the ROC of each, SVG.")] = None,
) -> None:
    """Renew the tables of pages, and the curves of figures, from measurements."""
    from edge_service.models.files import write_whole
    from lab.export.measured_tables import page_text, read_measured, renewed

    found = {path.stem: read_measured(path) for path in measured}
    made = {page: renewed(page_text(page), found) for page in pages}
    for page, text in made.items():
        write_whole(page, text.encode())
        typer.echo(page)
    if figures is not None:
        from lab.export.roc_figure import draw_roc

        for name, each in found.items():
            if each["curves"] and each["clean_curves"]:
                typer.echo(draw_roc(name, each, figures))


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


@app.command("export-decoder")
def export_decoder(
    to: Annotated[Path, typer.Option(help="Folder of profiles; the decoder is put beside the training's.")] = Path(
        "profiles"
    ),
    replace: Annotated[bool, typer.Option("--replace", help="Replace a decoder that is there.")] = False,
    out: _Out = _RUN,
    cache: _Cache = _CACHE,
) -> None:
    """Write a decoder for the edge's console, which shows what a thief could rebuild. Do not publish it."""
    from lab.defence.runs import Run
    from lab.export.decoder_export import export_decoder as write

    typer.echo(f"Wrote {write(Run.open(out, cache), to, replace=replace)}.")


@app.command()
def figures(
    portraits: Annotated[Path, typer.Option(help="Pictures that may be published; their faces are shown.")],
    to: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("figures"),
    out: _Out = _RUN,
    cache: _Cache = _CACHE,
) -> None:
    """Draw faces rebuilt after a breach, the angles, and accuracy over the angle."""
    from lab.defence.runs import Run
    from lab.evaluation.figures import draw

    for path in draw(Run.open(out, cache), portraits, to):
        typer.echo(path)


@app.command()
def attack(
    out: Annotated[Path, typer.Option("--out", help="Folder of the attack; a second call resumes it.")],
    profile: Annotated[str, typer.Option(help="The profile to attack.")] = "default-2",
    profiles: _Profiles = None,
    people: Annotated[
        Path | None,
        typer.Option(
            envvar="PATRONUS_FACE_DATA", help="Labeled faces, one sub-folder per person, or LFW with its pairs."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="The attacker's own faces, of other people. Default: utkface112.tar in the folder of the people."
        ),
    ] = None,
    embedder: _Embedder = None,
    tau: _Tau = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="Further embedder that rebuilt faces are matched with, NAME_OR_PATH or NAME_OR_PATH=TAU; repeatable."
        ),
    ] = None,
    portraits: Annotated[
        Path | None, typer.Option(help="Pictures that may be published; shown with the faces rebuilt from them.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Run for minutes, not hours; attackers are too weak to publish.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of all random draws.")] = 0,
    cache: _Cache = _CACHE,
) -> None:
    """Run all known attacks on a profile, and write one report."""
    if people is None:
        raise typer.BadParameter("name the faces to attack, or set PATRONUS_FACE_DATA", param_hint="--people")
    _must_be_there(people, images)
    from lab.progress import continued_by_same_command

    with continued_by_same_command():
        from lab.attacks.suite import AttackOptions, Suite

        options = AttackOptions(
            profile, profiles, images, people, embedder, tau, tuple(judge or ()), portraits, quick, seed
        )
        report = Suite(options, out, cache).run()
    typer.echo(report)


def _must_be_there(*sources: Path | None) -> None:
    """Before anything that takes seconds is loaded.

    Raises:
        SetupError: a source is missing.
    """
    from shared.errors import SetupError

    for source in sources:
        if source is not None and not source.exists():
            raise SetupError(f"{source} is missing; name a folder of pictures or a tar of aligned faces.")
