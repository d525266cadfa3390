"""Builds and checks everything that a run needs, before anything compiles."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from inception_jax.classes import check_same_classes
from inception_jax.data.loader import Batch, LoaderOptions, eval_batches, train_batches
from inception_jax.data.sources import ImageSource, open_source
from inception_jax.data.transforms import CropFlip, InceptionCrop, Transform, eval_transform
from inception_jax.errors import UserError, printable
from inception_jax.models.network import InceptionNet
from inception_jax.models.spec import last_frozen
from inception_jax.models.zoo import Preprocess, create_model, model_card
from inception_jax.parallel.devices import start_devices
from inception_jax.parallel.mesh import create_mesh, place, state_shardings
from inception_jax.training.config import DataConfig, TrainConfig, steps
from inception_jax.training.disk_space import check_disk_space
from inception_jax.training.finetune import Start, check_classes, check_frozen, starting_point
from inception_jax.training.limits import check_durations, check_sizes, named
from inception_jax.training.optimizers import frozen_parameters, make_optimizer, make_schedule
from inception_jax.training.state import TrainState, create_state, init_variables
from inception_jax.training.workdir import Folder
from inception_jax.weights import Weights, WeightsInfo, adapt
from inception_jax.weights.fitting import kept_head


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a run computes: the network, its optimizer and its state, without the images.

    Attributes:
      config: of the run.
      model, preprocess: the network and its input; `preprocess.size` is the image size of the run, in pixels.
      aux_weights: weight of the loss of each auxiliary head, by name, such as "aux_4a".
      mesh: of the devices.
      schedule, tx: the learning rate by step, and the optimizer.
      steps_per_epoch, total_steps: of training.
      abstract_state: shapes, dtypes and shardings of the state.
      info: how the network and its input are built: from the card of the model, or from the weights it started from.
      weights: what the run starts from; None from scratch, and if it resumes from a checkpoint.
    """

    config: TrainConfig
    model: InceptionNet
    preprocess: Preprocess
    aux_weights: dict[str, float]
    mesh: Mesh
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    steps_per_epoch: float
    total_steps: int
    abstract_state: TrainState
    info: WeightsInfo
    weights: Weights | None

    def init_state(self) -> TrainState:
        """Returns the state at step 0, with drawn or loaded variables, created in its final sharding."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        if self.config.finetune.weights is None:
            draw = _draw_state(self.config, self.model, self.tx, self.preprocess.size)
            return jax.jit(draw, out_shardings=shardings)()
        if self.weights is None:
            raise AssertionError("a run that started from weights resumes from its checkpoint")
        create = functools.partial(create_state, tx=self.tx, ema=self.config.ema_decay is not None)
        variables = jax.tree.map(place, dict(self.weights.variables), shardings.variables)
        return jax.jit(create, out_shardings=shardings, donate_argnums=0)(variables)

    def steps(self, duration: str) -> int:
        """Returns the steps in a duration of the config."""
        return steps(duration, self.steps_per_epoch)


@dataclasses.dataclass(frozen=True)
class Experiment(Setup):
    """A `Setup` with its data opened: all that a run needs, checked.

    Attributes:
      train_source, eval_source: the training and the evaluation images.
    """

    train_source: ImageSource
    eval_source: ImageSource

    def train_batches(self, first_step: int) -> Generator[Batch, None, None]:
        """Yields this process's images of each batch, from the step after `first_step` to the last."""
        transform = train_transform(self.config.data, self.preprocess)
        every = range(first_step, self.total_steps)
        options = _loader_options(self.config.data)
        return train_batches(self.train_source, transform, self.config.batch_size, self.config.seed, every, options)

    def eval_batches(self) -> Generator[Batch, None, None]:
        """Yields this process's images of batches that together hold every evaluation image once."""
        transform = eval_transform(self.preprocess)
        return eval_batches(self.eval_source, transform, self.config.batch_size, _loader_options(self.config.data))


def prepare(config: TrainConfig, workdir: Folder) -> Experiment:
    """Opens, builds and checks everything that `config` names; compiles only the initialisation of new heads.

    Raises:
      UserError: the platform, a data set, the weights, the batch size, the image size, the folder or its disk space
        does not suit the run; the message says which.
    """
    check_platform(config.platform)
    train_source = _open(config.data, "train_split")
    if len(train_source.class_names) < 2:
        raise UserError(
            f"{printable(train_source.name)} has one class, {train_source.class_names[0]!r}: a classifier needs two."
        )
    eval_source = _open(config.data, "eval_split", train_source.class_names)
    check_same_classes(
        train_source.name,
        train_source.class_names,
        eval_source.name,
        eval_source.class_names,
        "Training and evaluation need the same classes.",
    )
    start = starting_point(config, len(train_source.class_names), workdir)
    check_classes(config, start, train_source.class_names, workdir)
    mesh = create_mesh(config.mesh.data, config.mesh.fsdp)
    setup = build(config, start, len(train_source.class_names), len(train_source), mesh)
    check_disk_space(workdir, config.keep_checkpoints, setup.abstract_state)
    return Experiment(**vars(setup), train_source=train_source, eval_source=eval_source)


def build(config: TrainConfig, start: Start, num_classes: int, num_images: int, mesh: Mesh) -> Setup:
    """Builds and checks what a run computes, without its images.

    Args:
      config: of the run.
      start: what it starts from.
      num_classes, num_images: of the training data.
      mesh: of the devices; these need not belong to this machine.

    Raises:
      UserError: the batch size, the image size or a duration does not suit the run, or the weights do not fit.
    """
    info, weights = start
    model = _build_model(config, num_classes, info)
    preprocess = dataclasses.replace(info.preprocess, size=config.data.image_size or info.preprocess.size)
    check_sizes(config, model, preprocess.size, devices=mesh.size)
    steps_per_epoch = num_images / config.batch_size
    check_durations(config, steps_per_epoch)
    if weights is not None:
        weights = adapt(
            weights,
            model.num_classes,
            config.model.aux,
            image_size=preprocess.size,
            reset_head=config.finetune.reset_head,
            seed=config.seed,
        )
        check_frozen(weights, model)
        info = weights.info

    total_steps = steps(config.duration, steps_per_epoch)
    schedule = make_schedule(config.schedule, config.optimizer.learning_rate, total_steps, steps_per_epoch)
    tx = make_optimizer(config.optimizer, schedule, frozen_parameters(model.frozen_modules(), info.filled))
    abstract_state = make_abstract_state(config, model, tx, preprocess.size, mesh)
    return Setup(
        config=config,
        model=model,
        preprocess=preprocess,
        aux_weights=_aux_weights(config, model),
        mesh=mesh,
        schedule=schedule,
        tx=tx,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        abstract_state=abstract_state,
        info=info,
        weights=weights,
    )


def make_abstract_state(
    config: TrainConfig, model: InceptionNet, tx: optax.GradientTransformation, image_size: int, mesh: Mesh
) -> TrainState:
    """Returns shapes, dtypes and shardings of the state; the devices of `mesh` need not belong to this machine."""
    shapes = jax.eval_shape(_draw_state(config, model, tx, image_size))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh),
    )


def _open(config: DataConfig, field: str, class_names: Sequence[str] | None = None) -> ImageSource:
    """Opens the split that a field of the config names, with the classes of another split; an error names the field."""
    split = getattr(config, field)
    try:
        return open_source(config.name, split, config.data_dir, class_names=class_names, exif=config.exif)
    except UserError as error:
        raise UserError(f"{error} (config.data.name is {config.name!r}, config.data.{field} is {split!r})") from error


def train_transform(config: DataConfig, preprocess: Preprocess) -> Transform:
    """Returns the augmentation that the config names, which gives images of `preprocess.size` pixels."""
    match config.augmentation:
        case "inception":
            return InceptionCrop(
                preprocess.size, area=config.crop_area, flip=config.flip, photometric=config.photometric
            )
        case "crop_flip":
            return CropFlip(preprocess.size, pad=config.crop_pad, flip=config.flip)
        case "none":
            return eval_transform(preprocess)


def _loader_options(config: DataConfig) -> LoaderOptions:
    return LoaderOptions(
        process=jax.process_index(),
        processes=jax.process_count(),
        workers=config.workers,
        threads=config.threads,
        buffer=config.buffer,
        on_error=config.on_error,
    )


def _draw_state(
    config: TrainConfig, model: InceptionNet, tx: optax.GradientTransformation, size: int
) -> Callable[[], TrainState]:
    def draw() -> TrainState:
        variables = init_variables(jax.random.key(config.seed), model, size)
        return create_state(variables, tx, ema=config.ema_decay is not None)

    return draw


def _build_model(config: TrainConfig, num_classes: int, info: WeightsInfo) -> InceptionNet:
    settings, numerics = config.model, info.numerics
    if settings.bn_decay is not None and numerics.norm is not None:
        numerics = numerics._replace(norm=numerics.norm._replace(decay=settings.bn_decay))
    with named("config.finetune"):
        frozen_up_to = last_frozen(model_card(settings.name).table, config.finetune.freeze)
    with named("config.model"):
        model = create_model(
            settings.name,
            num_classes=num_classes,
            dtype=jnp.dtype(settings.dtype),
            aux=settings.aux,
            width=settings.width,
            dropout=settings.dropout,
            numerics=numerics,
            bn_group_size=None if settings.bn_group_size == "global" else settings.bn_group_size,
            implementation=settings.implementation,
            head=kept_head(info, num_classes, config.finetune.reset_head),
            in_channels=info.in_channels,
        ).clone(frozen_up_to=frozen_up_to)
    return model


def _aux_weights(config: TrainConfig, model: InceptionNet) -> dict[str, float]:
    """Returns the loss weight of each auxiliary head: from the config if it names the head, else from the model."""
    own = {f"aux_{tap}": head.weight for tap, head in model.aux_heads.items()}
    named = config.loss.aux_weights if config.model.aux else {}
    if unknown := ", ".join(sorted(named.keys() - own.keys())):
        heads = ", ".join(own) or "no heads"
        raise UserError(
            f"config.loss.aux_weights names {unknown}; {config.model.name} has {heads}: "
            "name these in the config file, or none, or set config.model.aux=False."
        )
    return own | named


def check_platform(platform: str | None) -> None:
    """Starts JAX; raises a `UserError` if it cannot start or runs on a platform other than `platform`."""
    found = start_devices()
    if platform not in (None, found):
        kinds = ", ".join(sorted({device.device_kind for device in jax.devices()}))
        extra = {"gpu": "cuda", "tpu": "tpu"}.get(platform or "")
        hint = f"install inception-jax[{extra}] and check the driver" if extra else "set JAX_PLATFORMS=cpu"
        raise UserError(f"config.platform is {platform!r}, but JAX runs on {found!r} ({kinds}): {hint}.")
