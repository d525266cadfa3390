"""`inception-jax export` and `demo`: a network in one file, and behind a web page."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inception_jax.cli.app import Overwrite, app
from inception_jax.cli.network import ClassFile, Input, Key, Model, Unverified, WeightsOption, Workdir, load_weights
from inception_jax.errors import UserError, printable
from inception_jax.paths import check_output

if TYPE_CHECKING:
    from inception_jax.weights import Weights


class Format(enum.StrEnum):
    """What `export` writes."""

    STABLEHLO = enum.auto()
    ONNX = enum.auto()


@app.command("export")
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    format: Annotated[Format, typer.Option(help="stablehlo: for JAX and XLA; onnx: for ONNX runtimes.")],
    weights: WeightsOption = None,
    workdir: Workdir = None,
    model: Model = None,
    unverified: Unverified = False,
    preprocess: Input = None,
    key: Key = None,
    classes: ClassFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a network with its parameters into one file that runs without this package."""
    path = check_output(output, overwrite)
    loaded = load_weights(weights, workdir, model, unverified, preprocess, classes, key)
    if format is Format.STABLEHLO:
        from inception_jax.inference.export_stablehlo import export_stablehlo as write
    else:
        from inception_jax.inference.export_onnx import export_onnx as write
    write(path, loaded, overwrite)
    size = path.stat().st_size / 1e6
    print(f"wrote {printable(output)}: {loaded.info.model}, {loaded.info.num_classes} classes, {size:.1f} MB")


@app.command("demo")
def demo(
    weights: Annotated[
        list[str] | None, typer.Option(help="A file, or the id of published weights; repeat it.")
    ] = None,
    workdir: Annotated[list[Path] | None, typer.Option(help="The folder of a run of train.py; repeat it.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 7860,
    unverified: Unverified = False,
    preprocess: Input = None,
    key: Key = None,
    classes: ClassFile = None,
) -> None:
    """Serve a web page that classifies images dropped on it."""
    if not weights and not workdir:
        raise UserError("Name at least one network: --weights, or --workdir.")
    from inception_jax.demo import app as web
    from inception_jax.inference.predictor import Predictor

    with web.listen(host, port) as listening:
        loaded = {
            source: load_weights(source, None, None, unverified, preprocess, classes, key) for source in weights or ()
        }
        loaded |= {str(folder): load_weights(None, folder, None, unverified, None, classes) for folder in workdir or ()}
        served = web.Demo({name: Predictor(each, max_batch=1) for name, each in _named(loaded).items()})
        app = web.create_app(served, host)
        print(f"compiling {printable(', '.join(served.predictors))} ...", flush=True)
        served.warmup()
        address, taken = listening.getsockname()[:2]
        print(f"http://{f'[{address}]' if ':' in address else address}:{taken} (Ctrl-C stops it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            web.server(app).run(sockets=[listening])


def _named(loaded: Mapping[str, Weights]) -> dict[str, Weights]:
    """Returns weights by the name of their model, with the source added where several are of one model."""
    models = [each.info.model for each in loaded.values()]
    return {
        each.info.model if models.count(each.info.model) == 1 else f"{each.info.model} ({source})": each
        for source, each in loaded.items()
    }
