"""What a run starts from: the card of its model, weights, or another run; checked before anything compiles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from inception_jax import weights
from inception_jax.classes import check_same_classes
from inception_jax.errors import UserError
from inception_jax.models.network import InceptionNet
from inception_jax.training import provenance, saved
from inception_jax.training.config import TrainConfig
from inception_jax.training.workdir import Folder, saved_steps
from inception_jax.weights.parts import WITHOUT_HEAD

logger = logging.getLogger(__name__)


class Start(NamedTuple):
    """What a run starts from.

    Attributes:
      info: how the network and its input are built; from scratch, as the card of the model says.
      weights: as their source has them; None from scratch, and if the run resumes from a checkpoint.
    """

    info: weights.WeightsInfo
    weights: weights.Weights | None


def starting_point(config: TrainConfig, num_classes: int, workdir: Folder | None) -> Start:
    """Reads what `config.finetune` names; if the run in `workdir` has checkpoints, only the record of it.

    Args:
      config: of the run.
      num_classes: of the training data.
      workdir: of the run; None for a run without one.

    Raises:
      UserError: the weights cannot be read, have another model or width, or their record is missing.
    """
    settings = config.finetune
    if settings.weights is None:
        if settings.freeze != "none":
            raise UserError(
                f"config.finetune.freeze is {settings.freeze!r} and config.finetune.weights is None: "
                "rows drawn at random would stay random. Name weights, or freeze none."
            )
        return Start(provenance.card_info(config, num_classes), None)
    if workdir is not None and saved_steps(workdir):
        return Start(provenance.read_start_info(workdir), None)
    begins_as = provenance.config_card(config).begins_as
    try:
        if saved.is_run(settings.weights):
            loaded = saved.run_weights(settings.weights)
        else:
            loaded = weights.load(
                settings.weights,
                None if begins_as else config.model.name,
                unverified=settings.unverified,
                key=settings.key,
                reset_head=settings.reset_head,
            )
    except UserError as error:
        words = str(error).replace("--unverified", "config.finetune.unverified")
        words = words.replace("--key ", "config.finetune.key=")
        words = words.replace(WITHOUT_HEAD, "config.finetune.reset_head=True draws a new classifier.")
        raise UserError(f"config.finetune.weights: {words}") from error
    if loaded.info.model == begins_as:
        loaded = weights.transfer(loaded, config.model.name, seed=config.seed)
    if loaded.info.in_channels != 3:
        raise UserError(
            f"config.finetune.weights: {settings.weights} reads images of {loaded.info.in_channels} channels; "
            "training reads RGB images."
        )
    for field, theirs in {"name": loaded.info.model, "width": loaded.info.width}.items():
        ours = getattr(config.model, field)
        if theirs != ours:
            raise UserError(f"config.model.{field} is {ours!r}; that of the weights {settings.weights} is {theirs!r}.")
    return Start(loaded.info, loaded)


def check_frozen(started: weights.Weights, model: InceptionNet) -> None:
    """Raises a `UserError` if a frozen row of the model was drawn at random."""
    drawn = {name.split("/")[1] for name in started.report.reinitialised} & model.frozen_modules()
    if drawn:
        raise UserError(
            f"config.finetune.freeze keeps {', '.join(sorted(drawn))}, which the weights of {started.info.source} "
            "do not have: drawn at random, it would stay so. Freeze up_to: a row before."
        )


def check_classes(config: TrainConfig, start: Start, class_names: Sequence[str], workdir: Folder | None) -> None:
    """Checks that the classes of the data are those of the run that resumes, or of the classifier that is kept.

    If one side does not know its class names, a warning says what is assumed.

    Raises:
      UserError: they have other names or another order.
    """
    if workdir is not None and saved_steps(workdir):
        _check_resumed(config, class_names, workdir)
        return
    settings = config.finetune
    if start.weights is None or settings.reset_head or start.info.num_classes != len(class_names):
        return  # new classifiers are drawn
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
    before = provenance.read_classes(workdir)
    if not before:
        logger.warning(
            "%s holds a run without %s; the classes that it learned are taken for those of %s, in order.",
            workdir,
            provenance.CLASSES,
            config.data.name,
        )
        return
    check_same_classes(
        f"config.data.name {config.data.name}",
        class_names,
        f"the run in {workdir}",
        before,
        f"Give the class folders the names that {workdir / provenance.CLASSES} holds, or use another workdir.",
    )
