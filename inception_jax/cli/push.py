"""`inception-jax push`: publishes weights on the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_jax.cli.app import Overwrite, app
from inception_jax.cli.network import ClassFile, Input, Model, Unverified, load_weights
from inception_jax.cli.weights import Average
from inception_jax.errors import UserError, printable
from inception_jax.paths import as_text, read_bytes

if TYPE_CHECKING:
    from inception_jax.weights import Weights
    from inception_jax.weights.push import Facts, Measured

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
LARGEST = 64 << 20  # bytes of an evaluation.json


@app.command("push")
def push(
    source: Annotated[str, typer.Argument(help="The folder of a run of train.py, a file, or the id of weights.")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the hub; it is created if it does not exist.")],
    licence: Annotated[
        str | None, typer.Option("--licence", "--license", help="Of the weights, such as apache-2.0.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    dry_run: Annotated[
        Path | None, typer.Option("--dry-run", help="Write the files into this folder, and upload nothing.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="The evaluation.json of `inception-jax evaluate`, for the model card.")
    ] = None,
    average: Average = None,
    model: Model = None,
    unverified: Unverified = False,
    preprocess: Input = None,
    classes: ClassFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Publish weights on the Hugging Face hub, with a config and a model card; HF_TOKEN is the token."""
    from inception_jax.training.saved import is_run
    from inception_jax.weights import push as hub

    if not REPOSITORY.fullmatch(repository):
        raise UserError(f"The repository is {printable(repository)!r}; it must be OWNER/NAME.")
    measured = [] if evaluation is None else [_evaluation(evaluation)]
    if is_run(source):
        if unverified or preprocess is not None:
            raise UserError("--preprocess and --unverified are for files of others; a run says what it is.")
        weights, facts = _run(source, average, classes)
    elif average is not None:
        raise UserError(f"--average and --no-average are for runs; {printable(source)} is none.")
    else:
        weights = load_weights(source, None, model, unverified, preprocess, classes)
        facts = _file(source, weights)
    facts = dataclasses.replace(facts, licence=licence or facts.licence, measured=(*facts.measured, *measured))
    if dry_run is not None:
        hub.write_folder(_folder(dry_run, overwrite), weights, repository, facts)
        return print(f"wrote {printable(dry_run)}: {', '.join(sorted(path.name for path in dry_run.iterdir()))}")
    print(f"uploaded {hub.push(weights, repository, facts, private=private)}")


def _run(source: str, average: bool | None, classes: Path | None) -> tuple[Weights, Facts]:
    """Returns the weights of a run, and what its files say of them."""
    from inception_jax.training.saved import read_run
    from inception_jax.weights.classes import read_class_names, with_class_names
    from inception_jax.weights.push import Facts, Measured

    run = read_run(source, average)
    weights = run.learned if classes is None else with_class_names(run.learned, read_class_names(classes))
    # The path of the folder says nothing to others, and may say what they should not know.
    kind = "averaged" if run.averaged else "not averaged"
    told = f"the run {Path(source).absolute().name}, step {run.step:,}, {kind}"
    weights = dataclasses.replace(weights, info=dataclasses.replace(weights.info, source=told))
    measured = Measured(_data(run.data), run.split, run.metrics, f"the evaluation of the run at step {run.step:,}")
    return weights, Facts(command=run.command, measured=(measured,) if run.metrics else ())


def _file(source: str, weights: Weights) -> Facts:
    """Returns what is known of weights that are not of a run."""
    from inception_jax.weights.published.names import find_card
    from inception_jax.weights.push import Facts

    card = find_card(weights.info.source)
    if card is None:
        return Facts()
    return Facts(
        licence=card.licence and card.licence.lower(), command=f"inception-jax convert {card.id} model.safetensors"
    )


def _evaluation(path: Path) -> Measured:
    """Returns what an evaluation.json says.

    Raises:
      UserError: it is none.
    """
    from inception_jax.weights.push import Measured

    try:
        record: Any = json.loads(as_text(read_bytes(path, LARGEST), str(path)))
        metrics = {name: float(record[name]) for name in ("top1", "top5", "loss")}
        data, count, crops = _data(str(record["data"])), int(record["count"]), int(record["crops"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{printable(path)} is no evaluation.json of `inception-jax evaluate`.") from error
    how = f"inception-jax evaluate, {count:,} images, {crops} crop{'s' * (crops > 1)}"
    return Measured(data, "", metrics, how)


def _data(name: str) -> str:
    """Returns the name of a data set; of a folder without the path to it."""
    return f"folder:{os.path.basename(name.rstrip('/'))}" if name.startswith("folder:") else name


def _folder(folder: Path, overwrite: bool) -> Path:
    """Returns the folder of --dry-run, created if it does not exist.

    Raises:
      UserError: there is something in it, and --overwrite is not given.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not overwrite:
            raise UserError(f"{printable(folder)} is not empty; --overwrite replaces the files in it.")
    except OSError as error:
        raise UserError(f"{printable(folder)} cannot be used: {error.strerror}.") from error
    return folder
