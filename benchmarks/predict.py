"""Images per second of a predictor from files to classes, and of its two stages (decoding, network) alone, in turns.

The weights are random; speed does not depend on them. Prints a line of JSON for benchmarks/results/inference.jsonl.
Command: python benchmarks/predict.py FOLDER
"""

from __future__ import annotations

import concurrent.futures
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import jax
import typer

from inception_jax import Predictor
from inception_jax.inference.files import find_images
from inception_jax.models import zoo
from inception_jax.version import __version__
from inception_jax.weights import Weights, WeightsInfo
from inception_jax.weights.fitting import initial_values
from inception_jax.weights.naming.lineages import variable_shapes


def random_weights(name: str) -> Weights:
    """Returns the initial weights of a model of the zoo."""
    card = zoo.model_card(name)
    info = WeightsInfo(name, num_classes=1000, aux=False, preprocess=card.preprocess, numerics=card.numerics)
    model = info.create_model()
    return Weights.of(info, initial_values(model, variable_shapes(model), seed=0))


def measure(
    folder: Path,
    model: Annotated[str, typer.Option(help="A name of the zoo.")] = "googlenet_torchvision",
    batch: Annotated[int, typer.Option(help="Batch size.")] = 32,
    repeats: Annotated[int, typer.Option(help="Repetitions of each measurement; the median counts.")] = 3,
    hardware: Annotated[str, typer.Option(help="Description of the machine, for the row.")] = "",
) -> None:
    """Measure on the images below a folder."""
    paths = find_images([str(folder)])
    predictor = Predictor(random_weights(model), max_batch=batch)
    predictor.warmup()
    pixels = [predictor.prepare(path) for path in paths[:batch]]

    def decode() -> None:
        with concurrent.futures.ThreadPoolExecutor(predictor.threads) as pool:
            list(pool.map(predictor.prepare, paths))

    def device() -> None:
        for first in range(0, len(paths), batch):
            predictor.compute(pixels[: len(paths) - first])

    def end_to_end() -> None:
        list(predictor.stream(paths))

    stages: dict[str, Callable[[], None]] = {"decode": decode, "device": device, "end_to_end": end_to_end}
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(repeats):
        for name, stage in stages.items():
            start = time.perf_counter()
            stage()
            seconds[name].append(time.perf_counter() - start)
    speeds = {name: len(paths) / statistics.median(each) for name, each in seconds.items()}
    slowest = min(speeds["decode"], speeds["device"])
    record = {
        "command": f"python benchmarks/predict.py FOLDER --model {model} --batch {batch} --repeats {repeats}",
        "hardware": hardware,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "versions": {"inception_jax": __version__, "jax": jax.__version__},
        "figures": {
            "model": model,
            "images": len(paths),
            "threads": predictor.threads,
            "images_per_second": {name: round(speed, 1) for name, speed in speeds.items()},
            "end_to_end_by_slowest": round(speeds["end_to_end"] / slowest, 3),
            "seconds": {name: [round(x, 2) for x in each] for name, each in seconds.items()},
        },
    }
    print(json.dumps(record))


if __name__ == "__main__":
    typer.run(measure)
