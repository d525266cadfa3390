"""`inception-jax bench`: commands that measure speed and memory, and one that writes the page of results."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from inception_jax.bench.engines import ENGINES
from inception_jax.cli.app import App, Json, Overwrite, app, table, use_cpu_only, user_errors
from inception_jax.errors import UserError, printable
from inception_jax.paths import check_output, user_path, write_bytes, writing
from inception_jax.progress import doing

if TYPE_CHECKING:
    from inception_jax.bench.records import Row

bench = App(help="Measure speed and memory, ours and those of PyTorch and Keras.")
app.add_typer(bench, name="bench")

BUSY = 0.2  # cores used by other processes; above it, figures of a CPU mean little

Save = Annotated[
    Path | None,
    typer.Option("--save", help="Append a row for each result to this file, e.g. benchmarks/results/model.jsonl."),
]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU cores for each engine; by default all.", min=1)]


ENGINES_HELP = "\n\n".join(["Engines:", *(f"{name}: {each.summary}." for name, each in ENGINES.items())])


@bench.command("model", epilog=ENGINES_HELP)
def bench_model(
    model: Annotated[str, typer.Option("--model", help="A name of `inception-jax models`.")] = "googlenet_torchvision",
    mode: Annotated[list[str] | None, typer.Option("--mode", help="inference or train; repeat it.")] = None,
    batch: Annotated[list[int] | None, typer.Option("--batch", help="Images per call; repeat it.", min=1)] = None,
    dtype: Annotated[list[str] | None, typer.Option("--dtype", help="float32, tf32 or bfloat16; repeat it.")] = None,
    engine: Annotated[list[str] | None, typer.Option("--engine", help="See below; repeat it.")] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="The engine whose speed is 1; by default the last.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", help="Height and width in pixels; by default the model's.", min=1)
    ] = None,
    classes: Annotated[int, typer.Option("--classes", help="Classes of the network.", min=1)] = 1000,
    aux: Annotated[bool, typer.Option("--aux/--no-aux", help="Train with the auxiliary heads.")] = False,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Seconds that each engine runs a case.", min=0)] = 10.0,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns into which these seconds are divided.", min=1)] = 5,
    implementation: Annotated[
        str, typer.Option("--implementation", help="Of the engine jax: auto, xla, native or pallas.")
    ] = "auto",
    warm: Annotated[
        bool, typer.Option("--warm/--no-warm", help="Build each engine once more, with its compilation cache filled.")
    ] = True,
    note: Annotated[str, typer.Option("--note", help="A remark, saved with the row.")] = "",
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Time a network on one device, in this package and in others, with the same weights and images.

    Each engine has a process of its own, and they take turns. Outputs are compared first. If they differ by more than
    rounding explains, nothing is timed.
    """
    use_cpu_only()  # accelerators belong to the processes of the engines
    from inception_jax.bench import engines, records
    from inception_jax.bench.case import Case
    from inception_jax.bench.model import Effort, measure

    effort = Effort(seconds, rounds, warm)
    names = engine or ["jax"]
    with user_errors():
        cases = [
            Case(model, each_mode, each_batch, each_dtype, image_size, classes, aux, threads, 0, implementation)  # type: ignore[arg-type]
            for each_mode in mode or ["inference"]
            for each_batch in batch or [32]
            for each_dtype in dtype or ["float32"]
        ]
        for case in cases:
            case.check()
    engines.check(names, model)
    if save:
        records.check(save)
    rows = []
    for case in cases:
        row = measure(case, names, baseline or names[-1], effort, command_line(), doing)
        rows.append(row.model_copy(update={"note": printable(note)}))
        if save:
            records.append(save, rows[-1])
        if not as_json:
            _print_model(str(case), rows[-1])
    if as_json:
        print(json.dumps([row.model_dump(mode="json") for row in rows], indent=2))


@bench.command("ops")
def bench_ops(
    model: Annotated[str, typer.Option("--model", help="A name of `inception-jax models`.")] = "googlenet_torchvision",
    batch: Annotated[int, typer.Option("--batch", help="Images per call.", min=1)] = 32,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, tf32 or bfloat16.")] = "float32",
    image_size: Annotated[
        int | None, typer.Option("--image-size", help="Height and width in pixels; by default the model's.", min=1)
    ] = None,
    threads: Threads = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Seconds for each shape, forward and with gradients.", min=0)
    ] = 0.5,
    rounds: Annotated[int, typer.Option("--rounds", help="Turns into which these seconds are divided.", min=1)] = 3,
    beside: Annotated[bool, typer.Option("--torch/--no-torch", help="Also measure PyTorch.")] = True,
    note: Annotated[str, typer.Option("--note", help="A remark, saved with the row.")] = "",
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Time each distinct convolution and pool of a network, forward and with gradients, slowest first.

    JAX runs the layers of the networks, PyTorch torch.nn.functional in channels_last. Outputs and gradients are
    compared first.
    """
    use_cpu_only()  # accelerators belong to the processes of the engines
    from inception_jax.bench import engines, ops, records
    from inception_jax.bench.case import Case
    from inception_jax.bench.model import Effort

    with user_errors():
        Case(model, "inference", batch, dtype, image_size, threads=threads).check()  # type: ignore[arg-type]
    engines.check(ops.FACTORIES if beside else ())
    if save:
        records.check(save)
    effort = Effort(seconds, rounds)
    row = ops.measure(model, batch, dtype, image_size, threads, effort, command_line(), doing, beside)
    row = row.model_copy(update={"note": printable(note)})
    if save:
        records.append(save, row)
    if as_json:
        return print(row.model_dump_json(indent=2))
    _print_ops(row)


@bench.command("compile")
def bench_compile(
    model: Annotated[str, typer.Option("--model", help="A name of `inception-jax models`.")] = "googlenet_torchvision",
    mode: Annotated[str, typer.Option("--mode", help="inference or train.")] = "inference",
    batch: Annotated[int, typer.Option("--batch", help="Images per call.", min=1)] = 32,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, tf32 or bfloat16.")] = "float32",
    beside: Annotated[
        list[str] | None, typer.Option("--beside", help="An engine of `bench model`, such as torch-compile; repeat it.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", help="Height and width in pixels; by default the model's.", min=1)
    ] = None,
    classes: Annotated[int, typer.Option("--classes", help="Classes of the network.", min=1)] = 1000,
    aux: Annotated[bool, typer.Option("--aux/--no-aux", help="Train with the auxiliary heads.")] = False,
    threads: Threads = None,
    note: Annotated[str, typer.Option("--note", help="A remark, saved with the row.")] = "",
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Time compilation and the first call, with an empty and a filled cache; count the operations that XLA runs."""
    use_cpu_only()  # accelerators belong to the processes of the engines
    from inception_jax.bench import compilation, engines, records
    from inception_jax.bench.case import Case

    with user_errors():
        case = Case(model, mode, batch, dtype, image_size, classes, aux, threads)  # type: ignore[arg-type]
        case.check()
    engines.check(beside or (), model)
    if save:
        records.check(save)
    row = compilation.measure(case, beside or (), command_line(), doing).model_copy(update={"note": printable(note)})
    if save:
        records.append(save, row)
    if as_json:
        return print(row.model_dump_json(indent=2))
    print(case)
    _print_compile(row)


@bench.command("report")
def bench_report(
    results: Annotated[Path, typer.Option("--results", help="Folder of the saved rows.")] = Path("benchmarks/results"),
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page to write; pictures go to images/ beside it.")
    ] = Path("docs/BENCHMARKS.md"),
    overwrite: Overwrite = False,
) -> None:
    """Write the page of results, and its pictures, from the saved rows."""
    from inception_jax.bench import plots, report

    rows = report.read_rows(results)
    path = user_path(output)
    try:
        (path.parent / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{printable(path.parent)} cannot be created: {error.strerror}.") from error
    figures = plots.draw(rows)
    pictures = {path.parent / report.PICTURE.format(kind=kind): figure for kind, figure in figures.items()}
    for place in (path, *pictures):
        check_output(place, overwrite)
    write_bytes(path, report.markdown(rows, figures).encode(), overwrite)
    for place, figure in pictures.items():
        with writing(place, overwrite) as file:
            figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    print(f"{printable(output)}: {sum(map(len, rows)):,} rows, {len(figures)} pictures")


def command_line() -> str:
    """Returns the command line of this program, without --save."""
    words = ["inception-jax", *sys.argv[1:]]
    if "--save" in words:
        place = words.index("--save")
        del words[place : place + 2]
    return shlex.join(words)


def _print_model(title: str, row: Row) -> None:
    found = row.figures["engines"]
    printed = table("", *found, left=("",))
    columns = [_model_cells(each, row.figures["case"]["batch"]) for each in found.values()]
    for name in dict.fromkeys(name for column in columns for name in column):
        printed.add_row(name, *(column.get(name, "-") for column in columns))
    print(title)
    Console().print(printed)
    for check in row.outputs_compared:
        print(
            f"{check.what} of {check.engine} and {check.reference}: "
            f"{check.max_abs_difference:.2g} apart, {check.tolerance:.2g} allowed"
        )
    print(f"{row.hardware}. The baseline is {row.figures['baseline']}.")
    busy = max(cores or 0.0 for cores in row.figures["cores_busy_for_others"])
    if busy > BUSY:
        print(f"Other processes kept {busy:.1f} cores busy: do not rely on these figures, least of all on PyTorch's.")


def _model_cells(each: dict[str, Any], batch: int) -> dict[str, str]:
    """Returns the cells of an engine's column by the name of their row."""
    steady, ratio = each["steady"], each["ratio"]
    warm = each.get("warm_seconds")
    return {
        "device": each["device"],
        "median, ms": f"{steady['median'] * 1e3:,.2f}",
        "p10 ... p90, ms": f"{steady['p10'] * 1e3:,.2f} ... {steady['p90'] * 1e3:,.2f}",
        "calls": f"{steady['calls']:,}",
        "images/s": f"{each['images_per_second']:,.1f}",
        "speed, baseline = 1": f"{ratio['median']:.2f}",
        "  lowest ... highest of the rounds": f"{ratio['lowest']:.2f} ... {ratio['highest']:.2f}",
        "GFLOP/s": f"{each['flops_per_second'] / 1e9:,.1f}",
        "  of a matrix product's": f"{each['utilisation']:.1%}",
        "matrix product, GFLOP/s": f"{each['ceilings']['flops'] / 1e9:,.1f}",
        "scaling in place, GB/s": f"{each['ceilings']['bandwidth'] / 1e9:,.1f}",
        **{f"{phase.replace('_', ' ')}, s": f"{seconds:,.2f}" for phase, seconds in each["phases"].items()},
        "to the first result, s": f"{each['to_first_result']:,.2f}",
        **({"  with a filled cache, s": f"{sum(warm.values()):,.2f}"} if warm else {}),
        **{f"{kind.replace('_', ' ')}, MiB": f"{size / 2**20:,.0f}" for kind, size in each["memory"].items()},
    }


def _print_ops(row: Row) -> None:
    names = list(row.figures["engines"])
    columns = [f"{name.partition('-')[0]} ms,\n{part}" for part in ("forward", "gradients") for name in names]
    printed = table("op", "uses", *columns, "GFLOP/s,\ngradients", left=("op",))
    for each in row.figures["ops"]:
        seconds = [each["seconds"][part][name] for part in ("forward", "gradients") for name in names]
        rate = f"{3 * each['flops'] / each['seconds']['gradients']['jax'] / 1e9:,.0f}" if each["flops"] else "-"
        printed.add_row(each["op"], f"{each['uses']}", *(f"{value * 1e3:,.2f}" for value in seconds), rate)
    totals = [
        sum(each["uses"] * each["seconds"][part][name] for each in row.figures["ops"])
        for part in ("forward", "gradients")
        for name in names
    ]
    printed.add_row("all, with all uses", "", *(f"{value * 1e3:,.1f}" for value in totals), "")
    Console().print(printed)
    print(f"{row.hardware}; load {row.hardware.load_average:g} at the start. Gradients include the forward pass.")


def _print_compile(row: Row) -> None:
    found = row.figures["engines"]
    columns = {f"{name},\n{state}": phases for name, states in found.items() for state, phases in states.items()}
    printed = table("seconds", *columns, left=("seconds",))
    for phase in dict.fromkeys(phase for phases in columns.values() for phase in phases):
        cells = (f"{phases[phase]:,.2f}" if phase in phases else "-" for phases in columns.values())
        printed.add_row(phase.replace("_", " "), *cells)
    printed.add_row("to the first result", *(f"{sum(phases.values()):,.2f}" for phases in columns.values()))
    Console().print(printed)
    program = row.figures["program"]
    print(f"StableHLO: {sum(program['before'].values()):,} operations: {_most(program['before'])}")
    print(f"compiled: {sum(program['after'].values()):,} instructions: {_most(program['after'])}")
    print(f"steps in sequence: {sum(program['steps'].values()):,}: {_most(program['steps'])}")
    moved, batch = program["bytes_moved"], row.figures["case"]["batch"]
    total = sum(moved.values())
    layers = table("layer", "MB/image", "share", left=("layer",))
    for name, size in moved.items():
        layers.add_row(name, f"{size / batch / 1e6:,.2f}", f"{size / total:.1%}")
    layers.add_row("all", f"{total / batch / 1e6:,.2f}", "")
    Console().print(layers)
    print(f"{row.figures['device']}; {row.hardware}; load {row.hardware.load_average:g} at the start.")


def _most(counts: dict[str, int]) -> str:
    """Returns the six largest counts with their names, as text."""
    return ", ".join(f"{count:,} {name}" for name, count in list(counts.items())[:6])
