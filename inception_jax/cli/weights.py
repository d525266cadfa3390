"""`inception-jax weights` and `convert`: list published weights, convert files of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from inception_jax.cli.app import Json, Overwrite, app, table, user_errors
from inception_jax.cli.network import ClassFile, Input, Key, Model, Unverified
from inception_jax.errors import UserError, printable
from inception_jax.paths import check_output

if TYPE_CHECKING:
    from inception_jax.weights import Weights
    from inception_jax.weights.published.card import WeightCard


@app.command("weights")
def show_weights(
    id: Annotated[str | None, typer.Argument(help="Show this one in full: its id or its name.")] = None,
    model: Annotated[str | None, typer.Option(help="List those of one model.")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download the one that is named, and print its path.")] = False,
    as_json: Json = False,
) -> None:
    """List the published weights, show one set, or download it."""
    from inception_jax.weights import places
    from inception_jax.weights.published import cards, names

    if id is not None and model is not None:
        raise UserError("An id names one set of weights: --model does not go with it.")
    if fetch:
        if id is None:
            raise UserError("--fetch downloads one set of weights: name it.")
        return print(printable(places.fetch_card(names.card_of(id)).path))
    with user_errors():
        found = [names.card_of(id)] if id is not None else cards.list_cards(model)
    here = {card.id: places.cached_path(card) for card in found}
    if as_json:
        entries = [card.to_json() | {"path": here[card.id] and str(here[card.id])} for card in found]
        return print(json.dumps(entries if id is None else entries[0], indent=2))
    if id is not None:
        return _print_card(found[0], here[found[0].id])
    printed = table("id", "top-1", "top-5", "MB", "licence", "here", left=("id", "licence", "here"))
    for card in found:
        accuracies = ("" if value is None else f"{value:.1f}" for value in (card.top1, card.top5))
        size = card.size / 1e6 if card.size else card.megabytes
        megabytes = "" if size is None else f"{size:.0f}"
        printed.add_row(card.id, *accuracies, megabytes, card.licence or "", "yes" if here[card.id] else "")
    Console().print(printed)


def _print_card(card: WeightCard, here: Path | None) -> None:
    """Prints all fields of a card, one a line."""
    from inception_jax.describe.models_page import preprocess_words
    from inception_jax.weights.published.names import NAMES

    accuracy = f"top-1 {card.top1}, top-5 {card.top5} ({card.origin})" if card.top1 is not None else None
    sizes = {f"{card.size} bytes": card.size, f"about {card.megabytes} MB": card.megabytes}
    background = ", the first for a background" if card.label_offset else ""
    facts = {
        "id": card.id,
        "name": ", ".join(name for name, id in NAMES.items() if id == card.id),
        "model": card.model,
        "lineage": card.lineage,
        "file": card.file,
        "url": card.url,
        "mirrors": " ".join(card.mirrors),
        "size": ", ".join(words for words, known in sizes.items() if known),
        "hashes": ", ".join(card.hashes),
        "outputs": card.outputs and f"{card.outputs}{background}",
        "channels": card.channels,
        "input": preprocess_words(card.preprocess),
        "accuracy": accuracy,
        "licence": card.licence,
        "notes": card.notes,
        "here": here and printable(here),
    }
    for name, value in facts.items():
        print(f"{name:<9} {value or '-'}")


Average = Annotated[
    bool | None,
    typer.Option(
        "--average/--no-average", help="Runs: use the averaged parameters or not; by default if the run has them."
    ),
]


@app.command("convert")
def convert(
    source: Annotated[
        str, typer.Argument(help="A file, the id of published weights, or the folder of a run of train.py.")
    ],
    destination: Annotated[Path, typer.Argument(help="The file to write: .safetensors, or .pth with --to.")],
    model: Model = None,
    origin: Annotated[
        str | None, typer.Option("--from", help="The origin of the names of the tensors, such as torchvision.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--to", help="Write the names and layout of torchvision, timm, ...")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Make a new classifier for this many classes; 0: none, features.", min=0)
    ] = None,
    aux: Annotated[bool | None, typer.Option("--aux/--no-aux", help="With or without auxiliary heads.")] = None,
    in_channels: Annotated[
        int | None, typer.Option(help="Fit the first kernel to images of so many channels, such as 1 for grey.", min=1)
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Keep outputs that are not classes, such as a background.")
    ] = False,
    average: Average = None,
    unverified: Unverified = False,
    preprocess: Input = None,
    key: Key = None,
    classes: ClassFile = None,
    dump: Annotated[
        Path | None,
        typer.Option("--compare", help="Compare with an .npz of `images` and endpoints of the original."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert weights to the format of this package, or from it to that of another (--to)."""
    from inception_jax import weights
    from inception_jax.training.saved import is_run, run_weights
    from inception_jax.weights.classes import read_class_names

    _check_destination(destination, target, overwrite)
    names = None if classes is None else read_class_names(classes)
    given: Any = source
    if is_run(source):
        if origin is not None or raw or unverified or preprocess is not None or key is not None:
            raise UserError(
                "--from, --raw, --preprocess, --key and --unverified are for files of others; a run says what it is."
            )
        given = run_weights(source, average)
    elif average is not None:
        raise UserError(f"--average and --no-average are for runs; {printable(source)} is none.")
    loaded = weights.load(
        given,
        model,
        num_classes=num_classes,
        aux=aux,
        in_channels=in_channels,
        raw=raw,
        origin=origin,
        unverified=unverified,
        preprocess=preprocess,
        key=key,
        class_names=names,
    )
    print(printable(loaded.report, keep="\n"))
    if dump is not None:
        _compare(loaded, dump)
    if target is None:
        weights.save(destination, loaded)
    else:
        weights.save_tensors(destination, weights.export(loaded, target))
    print(f"wrote {printable(destination)}: {loaded.info.model}, {loaded.info.num_classes} classes")


def _check_destination(destination: Path, target: str | None, overwrite: bool) -> None:
    """Raises a `UserError` before the work if the result cannot be written."""
    from inception_jax.weights.convert import targets

    if target is not None and target not in targets():
        raise UserError(f"--to is {target!r}; it must be one of {', '.join(targets())}.")
    check_output(destination, overwrite, (".safetensors",) if target is None else (".safetensors", ".pth"))


def _compare(loaded: Weights, dump: Path) -> None:
    """Prints the differences from a dump.

    Raises:
      UserError: some endpoints diverge.
    """
    from inception_jax import weights

    differences = weights.compare(loaded, dump)
    printed = table("endpoint", "largest difference / largest value", "", left=("endpoint", ""))
    for each in differences:
        printed.add_row(each.endpoint, f"{each.difference:.1e}", "diverges" if each.diverges else "agrees")
    Console().print(printed)
    diverging = [each.endpoint for each in differences if each.diverges]
    if diverging:
        raise UserError(f"{len(diverging)} of {len(differences)} endpoints diverge, the first is {diverging[0]}.")
