"""What a run starts from: a card of the zoo, or weights; and what stays in the workdir so that others can read it."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from inception_jax import weights
from inception_jax.classes import check_same_classes, one_line_each
from inception_jax.errors import UserError, printable
from inception_jax.models.network import InceptionNet
from inception_jax.models.zoo import ModelCard, model_card
from inception_jax.paths import write_bytes
from inception_jax.training.config import TrainConfig
from inception_jax.training.records import DamagedCheckpoint, read_signed, read_start, sign
from inception_jax.training.saved import is_run, read_variables
from inception_jax.training.workdir import Folder, resolve_workdir, saved_steps
from inception_jax.weights.files import from_json, to_json

logger = logging.getLogger(__name__)

RECORD = "finetune.json"
CLASSES = "classes.txt"


class Start(NamedTuple):
    """What a run starts from.

    Attributes:
      info: how the table is read and the input made; from scratch, what the card says.
      weights: as their source has them; None from scratch, and where a checkpoint goes on, which holds them.
    """

    info: weights.WeightsInfo
    weights: weights.Weights | None


def starting_point(config: TrainConfig, num_classes: int, workdir: Folder | None) -> Start:
    """Reads what `config.finetune` names, or, in the workdir of a run that has begun, the record of it.

    Without a workdir nothing has begun.

    Raises:
      UserError: it cannot be read, is of another model or width, or there is no record of it.
    """
    settings = config.finetune
    if settings.weights is None:
        if settings.freeze != "none":
            raise UserError(
                f"config.finetune.freeze is {settings.freeze!r} and config.finetune.weights is None: "
                "rows drawn at random would stay random. Name weights, or freeze none."
            )
        return Start(_card_info(config, num_classes), None)
    if workdir is not None and saved_steps(workdir):
        return Start(_read_record(workdir), None)
    begins_as = _card(config).begins_as
    try:
        if is_run(settings.weights):
            loaded = run_weights(settings.weights)
        else:
            loaded = weights.load(
                settings.weights, None if begins_as else config.model.name, unverified=settings.unverified
            )
    except UserError as error:
        words = str(error).replace("--unverified", "config.finetune.unverified")
        raise UserError(f"config.finetune.weights: {words}") from error
    if loaded.info.model == begins_as:
        loaded = weights.transfer(loaded, config.model.name, seed=config.seed)
    for field, theirs in {"name": loaded.info.model, "width": loaded.info.width}.items():
        ours = getattr(config.model, field)
        if theirs != ours:
            raise UserError(f"config.model.{field} is {ours!r}; that of the weights {settings.weights} is {theirs!r}.")
    return Start(loaded.info, loaded)


def check_frozen(started: weights.Weights, model: InceptionNet) -> None:
    """Raises a `UserError` if a row that does not train was drawn at random."""
    drawn = {name.split("/")[1] for name in started.report.reinitialised} & model.frozen_modules()
    if drawn:
        raise UserError(
            f"config.finetune.freeze keeps {', '.join(sorted(drawn))}, which the weights of {started.info.source} "
            "do not have: drawn at random, it would stay so. Freeze up_to: a row before."
        )


def run_weights(workdir: str | Path, average: bool | None = None) -> weights.Weights:
    """Returns the variables of the best checkpoint of a run of ours; the averaged ones if asked, or if it kept some.

    Raises:
      UserError: see `read_variables`; the run itself started from weights and its record is not there; or it has
        another number of class names than of classes.
    """
    variables, config, step, averaged = read_variables(workdir, average)
    num_classes = len(variables["params"]["classifier"]["linear"]["bias"])
    workdir = resolve_workdir(workdir)
    scratch = config.finetune.weights is None
    info = _card_info(config, num_classes) if scratch else _read_record(workdir)
    source = f"the run {workdir}, step {step:,}, {'averaged' if averaged else 'not averaged'}"
    class_names = _read_classes(workdir, num_classes)
    info = dataclasses.replace(info, source=source, sha256="", num_classes=num_classes, class_names=class_names)
    loaded = weights.Weights(info, variables)
    return dataclasses.replace(loaded, report=weights.Report(loaded=tuple(loaded.flat()), notes=(f"from {source}",)))


def write_record(workdir: Path, started: weights.Weights) -> None:
    """Keeps in `workdir` what a checkpoint cannot say of the weights that the run started from."""
    record = {"report": str(started.report).splitlines(), "info": json.loads(to_json(started.info))}
    write_bytes(workdir / RECORD, (json.dumps(sign(record), indent=2) + "\n").encode())


def write_classes(workdir: Path, class_names: Sequence[str]) -> None:
    """Keeps in `workdir` what the classes are called, one a line."""
    text = "".join(f"{name}\n" for name in one_line_each(class_names))
    write_bytes(workdir / CLASSES, text.encode(errors="surrogateescape"))  # names of folders need be no UTF-8


def read_classes(workdir: Folder) -> tuple[str, ...]:
    """Returns the class names of a run; none if it kept none, as the runs of earlier versions."""
    path = workdir / CLASSES
    if not path.exists():
        return ()
    return tuple(path.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1])


def check_classes(config: TrainConfig, start: Start, class_names: Sequence[str], workdir: Folder | None) -> None:
    """Checks that the classes of the data are those of the run that goes on, or of the classifier that is kept.

    Where one side does not know its names, a warning says what is assumed.

    Raises:
      UserError: they are others, or in another order.
    """
    if workdir is not None and saved_steps(workdir):
        _check_resumed(config, class_names, workdir)
        return
    settings = config.finetune
    if start.weights is None or settings.reset_head or start.info.num_classes != len(class_names):
        return  # the classifiers are drawn
    if not any(start.info.class_names):
        logger.warning(
            "%s does not say what its %d classes are; they are taken for those of %s in order. If they are others, "
            "set config.finetune.reset_head=True, which draws new classifiers.",
            settings.weights,
            len(class_names),
            config.data.name,
        )
        return
    check_same_classes(
        f"config.data.name {config.data.name}",
        class_names,
        f"config.finetune.weights {settings.weights}",
        start.info.class_names,
        "Set config.finetune.reset_head=True: it draws new classifiers for the classes of the data.",
    )


def _check_resumed(config: TrainConfig, class_names: Sequence[str], workdir: Folder) -> None:
    before = read_classes(workdir)
    if not before:
        logger.warning(
            "%s holds a run without %s; the classes that it learned are taken for those of %s, in order.",
            workdir,
            CLASSES,
            config.data.name,
        )
        return
    check_same_classes(
        f"config.data.name {config.data.name}",
        class_names,
        f"the run in {workdir}",
        before,
        f"Give the class folders the names that {workdir / CLASSES} holds, or use another workdir.",
    )


def _read_classes(workdir: Folder, num_classes: int) -> tuple[str, ...]:
    class_names = read_classes(workdir)
    if class_names and len(class_names) != num_classes:
        raise UserError(
            f"{workdir / CLASSES} holds {len(class_names)} class names, and the run in {workdir} has {num_classes}."
        )
    return class_names


def _read_record(workdir: Folder) -> weights.WeightsInfo:
    try:
        record = read_signed(workdir / RECORD)
    except DamagedCheckpoint:
        record = {}
    try:
        return from_json(json.dumps(record["info"]))
    except (KeyError, UserError) as error:
        if start := read_start(workdir):
            logger.warning("%s is missing or damaged; a checkpoint says the same", printable(workdir / RECORD))
            return from_json(json.dumps(start))
        raise UserError(
            f"{printable(workdir)} holds a run, but {RECORD}, which says what weights it started from, is missing or "
            "damaged: use another workdir."
        ) from error


def _card(config: TrainConfig) -> ModelCard:
    """Returns the card of the model.

    Raises:
      UserError: no model has this name.
    """
    try:
        return model_card(config.model.name)
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error


def _card_info(config: TrainConfig, num_classes: int) -> weights.WeightsInfo:
    """Returns what holds from scratch."""
    card = _card(config)
    preprocess = dataclasses.replace(card.preprocess, size=config.data.image_size or card.preprocess.size)
    return weights.WeightsInfo(
        model=card.name,
        num_classes=num_classes,
        width=config.model.width,
        aux=config.model.aux,
        numerics=card.numerics,
        preprocess=preprocess,
        filled=(),
    )
