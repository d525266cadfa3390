"""`inception-jax plan`: what a training step needs on a slice of TPU chips, from the compiler alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from inception_jax.cli.app import Json, app, table, use_cpu_only
from inception_jax.cli.config import ConfigCommand, read_config
from inception_jax.errors import UserError, printable
from inception_jax.progress import doing

if TYPE_CHECKING:
    from inception_jax.plan.plan import Plan, Question

MEMORY = ("arguments", "outputs", "aliased", "temporaries", "code", "total")


@app.command(cls=ConfigCommand)
def plan(
    config: Annotated[Path, typer.Option("--config", help="The experiment, such as configs/imagenet_googlenet.py.")],
    topology: Annotated[list[str], typer.Option("--topology", help="A slice, such as v5e:16x16; repeat it.")],
    compare: Annotated[
        list[Path] | None, typer.Option("--compare", help="Another experiment, in a column of its own; repeat it.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE, or --config.FIELD=VALUE, changes every config."),
    ] = None,
    batch_per_chip: Annotated[
        int | None,
        typer.Option("--batch-per-chip", help="Images per step on one chip, in place of config.batch_size.", min=1),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes", help="Number of classes, for data sets other than ImageNet, CIFAR-10 and digits.", min=1
        ),
    ] = None,
    inference: Annotated[
        bool, typer.Option("--inference", help="Compile the predictor's program, not the training step.")
    ] = False,
    largest_batch: Annotated[
        bool,
        typer.Option("--largest-batch", help="Find how many images per chip fit; compiles three to seven times more."),
    ] = False,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="NAME=VALUE, an option of the compiler; repeat it.")
    ] = None,
    by_op: Annotated[
        bool, typer.Option("--by-op", help="Also show the bytes moved, by kind of step and by layer.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compile a training step for TPUs, without a TPU, and show memory, traffic, roofline and collectives.

    Needs libtpu (pip install inception_jax[tpu]). Compiling takes a minute or more for each column.
    """
    from inception_jax.plan.chips import parse_slice

    slices = [parse_slice(name) for name in topology]
    configs = [(path, read_config(path, changes or ())) for path in (config, *(compare or ()))]
    options = _options(option or ())
    use_cpu_only()  # what is compiled here runs nowhere, and a TPU may be busy with a run
    from inception_jax.plan import compile_tpu

    compile_tpu.check_installed()
    from inception_jax.plan.plan import Question

    questions = [
        Question(path.stem, parsed, topology_slice, batch_per_chip, classes, inference, options)
        for path, parsed in configs
        for topology_slice in slices
    ]
    plans = _plans(questions, largest_batch)
    if as_json:
        return print(json.dumps([each.to_json(by_op) for each in plans], indent=2))
    _print(plans, largest_batch)
    if by_op:
        for each in plans:
            _print_by_op(each)


def _options(given: Sequence[str]) -> dict[str, str]:
    for each in given:
        if not all(each.partition("=")):
            raise UserError(f"--option {each}: it must be NAME=VALUE, such as xla_tpu_scoped_vmem_limit_kib=20480.")
    return {name: value for name, _, value in (each.partition("=") for each in given)}


def _plans(questions: Sequence[Question], largest: bool) -> list[Plan]:
    """Returns a plan for each question; with `largest` that of the largest batch that fits."""
    from inception_jax.plan.plan import largest_batch

    plans = []
    for number, question in enumerate(questions, start=1):
        make_plan = _planner(f"{number} of {len(questions)}")
        found = make_plan(question)
        plans.append(largest_batch(found, make_plan)[1] if largest else found)
    return plans


def _planner(position: str) -> Callable[[Question], Plan]:
    """Returns `make_plan`, with a line on stderr that says what it compiles."""
    from inception_jax.plan.plan import make_plan

    def planner(question: Question) -> Plan:
        program = "predictor" if question.inference else "training step"
        batch = f", {question.batch_per_chip} images per chip" if question.batch_per_chip else ""
        with doing(f"{position}: compiling the {program} of {question.name} for {question.slice.name}{batch}"):
            return make_plan(question)

    return planner


def _print(plans: list[Plan], largest: bool) -> None:
    records = [each.to_json() for each in plans]
    printed = table("", *(f"{record['config']}\n{record['topology']}" for record in records), left=("",))
    columns = [_cells(record) for record in records]
    for name in dict.fromkeys(name for column in columns for name in column):
        printed.add_row(name, *(column.get(name, "-") for column in columns))
    Console().print(printed)
    chips = {each.question.slice.chip.name: each.question.slice.chip for each in plans}
    for chip in chips.values():
        print(
            f"{chip.name}: {chip.flops / 1e12:g} TFLOP/s in bfloat16, {chip.hbm_bandwidth / 1e9:g} GB/s of HBM, "
            f"{_scaled(chip.ici_bandwidth, 1e9, 'g')} GB/s of interconnect ({chip.source})."
        )
    if largest:
        print("The largest batch is extrapolated, then compiled; it is at most a sixteenth below what fits.")
    if any(record["flops_per_image"] is None and record["fits"] for record in records):
        print("In a program with a loop the compiler counts one iteration, so FLOPs, bytes and times are left out.")
    for record in records:
        if not record["fits"]:
            print(printable(f"{record['config']} on {record['topology']} does not fit: {record['refusal']}"))
    print(f"Times are lower bounds, not predictions. Assumed: {records[0]['assumed']}.")


def _print_by_op(plan: Plan) -> None:
    """Prints the bytes that the steps of a program move, by kind, with the three layers that move most."""
    groups = plan.to_json(by_op=True)["by_op"]
    if not groups:
        return print(f"{printable(plan.question.name)} on {plan.question.slice.name}: no traffic by kind is known.")
    numbers = ("moved_per_image", "hbm_bytes_per_image", "bytes_per_image")
    headings = ("MB moved per image", "in HBM", "counted by XLA", "expected Mcycles a step", "most in (MB)")
    printed = table(f"{plan.question.name}\n{plan.question.slice.name}", "steps", *headings, left=("most in (MB)",))
    for kind in (None, *dict.fromkeys(group["kind"] for group in groups)):
        own = [group for group in groups if kind in (None, group["kind"])]
        where = ", ".join(f"{each['layer']} {each['moved_per_image'] / 1e6:.1f}" for each in own[:3]) if kind else ""
        sums = (f"{sum(each[name] for each in own) / 1e6:,.2f}" for name in (*numbers, "estimated_cycles"))
        printed.add_row(kind or "all", f"{sum(each['steps'] for each in own):,}", *sums, where)
    Console().print(printed)


def _cells(record: dict[str, Any]) -> dict[str, str]:
    """Returns the cells of a plan's column by the name of their row."""
    memory, times = record["memory_per_chip"], record["seconds_at_least"]
    cells = {
        "model": record["model"],
        "dtype": record["dtype"],
        "chips": f"{record['chips']:,}",
        "images per chip": f"{record['batch_per_chip']:,}",
        "fits": "yes" if record["fits"] else "no",
        **{f"{kind}, MiB per chip": _scaled(memory.get(kind), 2**20, ",.1f") for kind in MEMORY},
        "usable HBM, MiB per chip": _scaled(record["usable_hbm_per_chip"], 2**20, ",.0f"),
        "GFLOP per image": _scaled(record["flops_per_image"], 1e9, ",.2f"),
        "MB accessed per image": _scaled(record["bytes_per_image"], 1e6, ",.1f"),
        "  of them in HBM": _scaled(record["hbm_bytes_per_image"], 1e6, ",.1f"),
        "MB temporary per image": _scaled(record["temporaries_per_image"], 1e6, ",.1f"),
        **{f"{use}, ms at least": _scaled(times.get(use), 1e-3, ",.2f") for use in ("compute", "HBM", "interconnect")},
        "bound by": record["bound_by"] or "-",
        "images/s at most": _scaled(record["images_per_second_at_most"], 1, ",.0f"),
        "compile seconds": _scaled(record["compile_seconds"], 1, ",.0f"),
    }
    for each in record["collectives"]:
        cells[f"{each['kind']}: count"] = f"{each['count']:,}"
        cells[f"{each['kind']}: MB per device"] = _scaled(each["bytes"], 1e6, ",.2f")
    return cells


def _scaled(value: float | None, unit: float, spec: str) -> str:
    return "-" if value is None else format(value / unit, spec)
