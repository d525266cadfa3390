"""Compiles the training step of a config for a slice of TPU chips: memory, traffic, roofline, collectives."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from inception_jax.errors import UserError
from inception_jax.inference.fold_and_fuse import for_inference
from inception_jax.inference.forward import trace_forward
from inception_jax.ops.implementation import resolve
from inception_jax.parallel.mesh import create_mesh
from inception_jax.plan import compile_tpu, hlo
from inception_jax.plan.chips import Slice
from inception_jax.plan.traffic import Traffic, kind, layer, traffic, traffic_by
from inception_jax.training.compilation import trace_train_step
from inception_jax.training.config import TrainConfig
from inception_jax.training.experiment import Setup, build
from inception_jax.training.finetune import starting_point
from inception_jax.training.state import init_variables
from inception_jax.version import __version__

CLASSES = {"imagenet2012": 1000, "cifar10": 10, "digits": 10}
IMAGES = 1_281_167  # of ImageNet; only the learning rate schedule depends on it
TRIALS = 6  # batches that `largest_batch` compiles
AGREEMENT = 0.05  # largest relative difference between our sum of bytes and XLA's at which ours is reported


@dataclasses.dataclass(frozen=True)
class Question:
    """What to compile.

    Attributes:
      name: of the config, for tables.
      config: of the run; its data are not opened, and its platform is ignored.
      slice: the chips to compile for.
      batch_per_chip: images per step on one chip; None: config.batch_size divided by the chips.
      num_classes: of the data; None: that of ImageNet, CIFAR-10 or the digits, by the name of the data set.
      inference: whether to compile the predictor's program for logits instead of the training step.
      options: of the compiler, by name; train.py sets none.
    """

    name: str
    config: TrainConfig
    slice: Slice
    batch_per_chip: int | None = None
    num_classes: int | None = None
    inference: bool = False
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Figures of a compiled program. Bytes and FLOPs are of one chip and one step, times in seconds.

    Attributes:
      question: what was compiled.
      facts: of the run: model, dtype, image size, classes, images of a step, parameters.
      refusal: the compiler's message if the program does not fit; all attributes below are then empty.
      memory: bytes by kind, see `compile_tpu.Program`, and "total", the most in use at a time.
      flops, bytes_accessed: from XLA's cost analysis; None for a program with loops, of which it counts one iteration.
      hbm_bytes: bytes read and written in HBM; None unless our sum over the text agrees with XLA's (`AGREEMENT`).
      collectives: of one device.
      times: lower bounds by "compute", "HBM" and "interconnect", where they are known.
      compile_seconds: that XLA took.
      by_op: traffic by (kind, layer), most bytes first; {} where `hbm_bytes` is None.
    """

    question: Question
    facts: dict[str, Any]
    refusal: str | None = None
    memory: dict[str, int] = dataclasses.field(default_factory=dict)
    flops: float | None = None
    bytes_accessed: float | None = None
    hbm_bytes: float | None = None
    collectives: tuple[hlo.Collective, ...] = ()
    times: dict[str, float] = dataclasses.field(default_factory=dict)
    compile_seconds: float | None = None
    by_op: dict[tuple[str, str], Traffic] = dataclasses.field(default_factory=dict)

    @property
    def batch_per_chip(self) -> int:
        """Images per step on one chip."""
        return self.facts["batch_per_chip"]

    @property
    def bound_by(self) -> str | None:
        """The resource with the longest lower bound: "compute", "HBM" or "interconnect"."""
        return max(self.times, key=self.times.__getitem__) if self.times else None

    @property
    def images_per_second(self) -> float | None:
        """Upper bound of images per second on the slice."""
        return self.facts["batch_size"] / max(self.times.values()) if self.times else None

    def to_json(self, by_op: bool = False) -> dict[str, Any]:
        """Returns all figures as JSON types, with assumptions and versions; `by_op` adds traffic by kind and layer."""
        chip = self.question.slice.chip
        batch = self.batch_per_chip
        return {
            "config": self.question.name,
            "program": "predictor" if self.question.inference else "train_step",
            "topology": self.question.slice.name,
            "chips": self.question.slice.chips,
            "devices": self.question.slice.devices,
            "compiler_options": dict(self.question.options),
            **self.facts,
            "fits": self.refusal is None,
            "refusal": self.refusal,
            "memory_per_chip": self.memory,
            "usable_hbm_per_chip": chip.usable,
            "flops_per_image": _per(self.flops, batch),
            "bytes_per_image": _per(self.bytes_accessed, batch),
            "hbm_bytes_per_image": _per(self.hbm_bytes, batch),
            "temporaries_per_image": _per(self.memory.get("temporaries"), batch),
            "collectives": [dataclasses.asdict(each) for each in self.collectives],
            "seconds_at_least": self.times,
            "bound_by": self.bound_by,
            "images_per_second_at_most": self.images_per_second,
            "peaks": {
                "flops": chip.flops,
                "hbm_bandwidth": chip.hbm_bandwidth,
                "ici_bandwidth": chip.ici_bandwidth,
                "source": chip.source,
            },
            "compile_seconds": self.compile_seconds,
            "assumed": f"{self.facts['num_classes']} classes; {IMAGES:,} images an epoch, for the schedule alone",
            "versions": versions(),
            **({"by_op": [self._moved(*item) for item in self.by_op.items()]} if by_op else {}),
        }

    def _moved(self, what: tuple[str, str], moved: Traffic) -> dict[str, Any]:
        scale = self.question.slice.chip.devices / self.batch_per_chip
        return {
            "kind": what[0],
            "layer": what[1],
            "steps": moved.steps,
            "moved_per_image": moved.total * scale,
            "hbm_bytes_per_image": moved.hbm * scale,
            "bytes_per_image": moved.counted * scale,
            "estimated_cycles": moved.cycles,
        }


def versions() -> dict[str, str]:
    """Returns the versions of the packages that compute the figures."""
    packages = ("jax", "jaxlib", "flax", "libtpu")
    return {"inception_jax": __version__} | {name: importlib.metadata.version(name) for name in packages}


def make_plan(question: Question) -> Plan:
    """Compiles the program of a question, which takes minutes and gigabytes of memory.

    Raises:
      UserError: libtpu is missing, the devices do not divide the batch, or a run would refuse the config.
    """
    setup = _set_up(question)
    traced = _trace_predictor(setup) if question.inference else trace_train_step(setup)
    facts = _facts(question, setup)
    try:
        program = compile_tpu.compile_for_tpu(traced, question.options)
    except compile_tpu.TooLarge as error:
        return Plan(question, facts, refusal=str(error))
    return read_program(question, facts, program)


def read_program(question: Question, facts: dict[str, Any], program: compile_tpu.Program) -> Plan:
    """Computes the figures of a compiled program."""
    module, devices = hlo.parse(program.text), question.slice.chip.devices
    memory = {kind: size * devices for kind, size in program.memory.items()}
    memory["total"] = sum(memory.values()) - 2 * memory["aliased"]
    found = hlo.collectives(module)
    flops = bytes_accessed = hbm_bytes = None
    by_op: dict[tuple[str, str], Traffic] = {}
    if not hlo.has_loops(module):
        flops, bytes_accessed = program.flops * devices, program.bytes_accessed * devices
        moved = traffic(module)
        if moved and abs(moved.counted / program.bytes_accessed - 1) < AGREEMENT:
            hbm_bytes = float(moved.hbm * devices)
            by_op = traffic_by(module, lambda each: (kind(module, each), layer(each.op_name)))
    return Plan(
        question,
        facts,
        memory=memory,
        flops=flops,
        bytes_accessed=bytes_accessed,
        hbm_bytes=hbm_bytes,
        collectives=tuple(found),
        times=roofline(question.slice, flops, hbm_bytes or bytes_accessed, found),
        compile_seconds=program.seconds,
        by_op=by_op,
    )


def roofline(
    topology: Slice, flops: float | None, hbm_bytes: float | None, collectives: list[hlo.Collective]
) -> dict[str, float]:
    """Returns lower bounds for the seconds of a step at the published peaks; {} where the counts are not known.

    "compute" is FLOPs / peak, "HBM" bytes / bandwidth, "interconnect" bytes sent / half of the bandwidth of all links,
    without latencies. Of n devices, each sends 2 (n - 1) / n of the bytes of an all-reduce, and (n - 1) / n of those of
    another collective.
    """
    if flops is None or hbm_bytes is None:
        return {}
    chip = topology.chip
    times = {"compute": flops / chip.flops, "HBM": hbm_bytes / chip.hbm_bandwidth}
    if collectives and chip.ici_bandwidth is not None:
        sent = sum(each.bytes * (2 if each.kind == "all-reduce" else 1) for each in collectives) * chip.devices
        times["interconnect"] = sent * (topology.devices - 1) / topology.devices / (chip.ici_bandwidth / 2)
    return times


def largest_batch(plan: Plan, planner: Callable[[Question], Plan] = make_plan) -> tuple[int, Plan]:
    """Returns the largest number of images per chip that fits, and its plan.

    Memory is nearly linear in the batch, and less steep for large batches, whose tiles are full. So half the batch is
    compiled, and the line through both is extrapolated to the usable memory. That batch, rounded down to a multiple of
    8 (times the devices of a chip and the accumulation steps), is compiled. If it fits, the last two give the next
    line, until the gain is below a sixteenth. If not, a sixteenth less is tried. At most `TRIALS` batches are compiled.

    Args:
      plan: of any batch that fits.
      planner: `make_plan`, or a function in its place.

    Raises:
      UserError: the plan does not fit, its batch is too small to halve, or no larger batch was accepted.
    """
    if plan.refusal is not None:
        raise UserError(f"{plan.batch_per_chip} images per chip do not fit; try a smaller --batch-per-chip.")
    unit = plan.question.slice.chip.devices * plan.question.config.grad_accum_steps
    half = plan.batch_per_chip // 2 // unit * unit
    if not half:
        raise UserError(f"{plan.batch_per_chip} images per chip cannot be halved; try a larger --batch-per-chip.")
    smaller, best = planner(dataclasses.replace(plan.question, batch_per_chip=half)), plan
    guess, refused = _meeting(smaller, best), False
    for _ in range(TRIALS):
        guess = guess // (8 * unit) * (8 * unit)
        if guess <= best.batch_per_chip * 17 // 16:
            return best.batch_per_chip, best
        found = planner(dataclasses.replace(plan.question, batch_per_chip=guess))
        if found.refusal is not None:
            guess, refused = guess - guess // 16, True
        elif refused:
            return guess, found
        else:
            smaller, best = best, found
            guess = _meeting(smaller, best)
    if best is plan:
        raise UserError(f"No batch above {plan.batch_per_chip} images per chip was accepted in {TRIALS} trials.")
    return best.batch_per_chip, best


def _meeting(smaller: Plan, larger: Plan) -> int:
    """Returns the batch at which the line through the memory of two plans reaches the usable memory."""
    more = larger.batch_per_chip - smaller.batch_per_chip
    slope = (larger.memory["total"] - smaller.memory["total"]) / more
    left = larger.question.slice.chip.usable - larger.memory["total"]
    return larger.batch_per_chip + int(left / max(slope, 1.0))


def _set_up(question: Question) -> Setup:
    config, topology = question.config, question.slice
    batch_size = config.batch_size if question.batch_per_chip is None else question.batch_per_chip * topology.chips
    if batch_size % topology.devices:
        of = "config.batch_size" if question.batch_per_chip is None else "--batch-per-chip x chips"
        count = f"{topology.devices} devices of {topology.name}"
        raise UserError(f"{of} is {batch_size}; it must be a multiple of the {count}.")
    num_classes = question.num_classes or CLASSES.get(config.data.name)
    if num_classes is None:
        raise UserError(f"The number of classes of {config.data.name!r} is not known: give --classes.")
    devices = compile_tpu.devices(topology)
    config = config.model_copy(update={"batch_size": batch_size})
    mesh = create_mesh(config.mesh.data, config.mesh.fsdp, devices)
    return build(config, starting_point(config, num_classes, None), num_classes, IMAGES, mesh)


def _facts(question: Question, setup: Setup) -> dict[str, Any]:
    return {
        "model": setup.config.model.name,
        "dtype": setup.config.model.dtype,
        "implementation": resolve(setup.model.implementation, "tpu", alone=True),
        "image_size": setup.preprocess.size,
        "num_classes": setup.model.num_classes,
        "batch_size": setup.config.batch_size,
        "batch_per_chip": setup.config.batch_size // question.slice.chips,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(setup.abstract_state.params)),
    }


def _trace_predictor(setup: Setup) -> jax.stages.Traced:
    """Returns the program of a `Predictor` for logits; its parameters are arguments, so their values do not matter."""
    model, size = setup.model.clone(aux_heads={}), setup.preprocess.size
    shapes = jax.eval_shape(lambda: init_variables(jax.random.key(0), model, size))
    network = for_inference(model, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), "tpu")
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), network.params)
    mesh = Mesh(np.array(setup.mesh.devices).reshape(-1), ("data",))
    return trace_forward(network.model, params, setup.preprocess, setup.config.batch_size, ("logits",), mesh)


def _per(total: float | None, batch: int) -> float | None:
    return None if total is None else total / batch
