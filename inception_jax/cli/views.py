"""`inception-jax cam` and `views`: class activation maps, filters, activations, feature visualisation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inception_jax.cli.app import Overwrite, app
from inception_jax.cli.network import (
    ClassFile,
    Exif,
    Input,
    Key,
    Model,
    Unverified,
    WeightsOption,
    Workdir,
    load_predictor,
)
from inception_jax.errors import UserError, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inception_jax.explain.cam import Explanation
    from inception_jax.inference.predictor import Predictor

Output = Annotated[Path, typer.Option("--output", "-o", help="The picture to write: .png, .jpg, .webp, .svg or .pdf.")]
Method = Literal["cam", "gradcam", "occlusion"]
Drawn = Literal["filters", "activations", "maximise"]


@app.command("cam")
def show_cam(
    image: Annotated[Path, typer.Argument(help="An image.")],
    output: Output = Path("cam.png"),
    weights: WeightsOption = None,
    workdir: Workdir = None,
    model: Model = None,
    unverified: Unverified = False,
    preprocess: Input = None,
    key: Key = None,
    class_file: ClassFile = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Name or index of a class; by default the most likely. Repeat it."),
    ] = None,
    method: Annotated[Method, typer.Option(help="What to draw.")] = "cam",
    endpoint: Annotated[str | None, typer.Option(help="gradcam: the endpoint; by default the last.")] = None,
    threshold: Annotated[
        float, typer.Option(help="Boxes and masks: threshold, as a share of the largest value.", min=0, max=1)
    ] = 0.2,
    k: Annotated[int, typer.Option("-k", help="How many classes to list.", min=1)] = 5,
    masks: Annotated[
        Path | None, typer.Option("--masks", help="Also write a .png of labels: 0 background, i + 1 class i.")
    ] = None,
    exif: Exif = True,
    overwrite: Overwrite = False,
) -> None:
    """Draw a class activation map with its box over an image, and list the most likely classes."""
    from inception_jax.explain import heatmaps, localisation, plots
    from inception_jax.inference.images import load_rgb

    if endpoint is not None and method != "gradcam":
        raise UserError(f"--endpoint is {endpoint!r}; it goes with --method gradcam, not with {method}.")
    localisation.check_threshold(threshold)
    plots.check_figure(output, overwrite)
    if masks is not None:
        plots.check_mask(masks, overwrite)
    predictor = load_predictor(
        weights, workdir, model, unverified, preprocess=preprocess, key=key, classes=class_file, exif=exif
    )
    shown = plots.DisplayImage(load_rgb(image, exif))  # keeps a small copy, not the pixels of the photograph
    found = _explain(predictor, image, classes, method, endpoint)
    placed = heatmaps.PlacedHeatmap(heatmaps.heat(found.maps[0]), predictor.transform.box(*shown.size), *shown.size)
    heats = [
        plots.ClassHeatmap(i, plots.short_name(predictor.class_names[i]) or f"class {i}", each, box)
        for i, each in zip(found.classes[0].tolist(), placed.each(), strict=True)
        for box in [localisation.largest_box(each, threshold)]
    ]
    prediction = predictor.top(found.logits[0], min(k, found.logits.shape[-1]))
    for score in prediction.classes:
        print(f"{score.probability:7.2%}  {score.index:4}  {printable(score.label)}".rstrip())
    for drawn in heats:
        print(f"{printable(drawn.name)}: " + (f"box {drawn.box}" if drawn.box else "nothing speaks for it"))
    where = f"{method} at {endpoint}" if endpoint else method
    figure = plots.draw_heat(shown, heats, prediction, f"{predictor.info.model}, {where}")
    plots.save(figure, output, overwrite)
    print(printable(output))
    if masks is not None:
        mask = localisation.pseudo_mask(placed, found.classes[0].tolist(), threshold)
        plots.save_mask(mask, masks, overwrite)
        print(printable(masks))


@app.command("views")
def show_views(
    what: Annotated[Drawn, typer.Argument(help="What to draw.")],
    output: Output = Path("views.png"),
    image: Annotated[Path | None, typer.Option(help="activations: the image.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="activations and maximise: the endpoint.")] = None,
    channels: Annotated[
        list[int] | None, typer.Option("--channel", help="Index of a channel; repeat it.", min=0)
    ] = None,
    steps: Annotated[int, typer.Option(help="maximise: steps of gradient ascent.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="maximise: seed of the initial noise.", min=0)] = 0,
    weights: WeightsOption = None,
    workdir: Workdir = None,
    model: Model = None,
    unverified: Unverified = False,
    preprocess: Input = None,
    key: Key = None,
    exif: Exif = True,
    overwrite: Overwrite = False,
) -> None:
    """Draw the filters of the first layer, activations of an endpoint, or images that maximise its channels."""
    from inception_jax.explain import plots

    plots.check_figure(output, overwrite)
    predictor = load_predictor(weights, workdir, model, unverified, preprocess=preprocess, key=key, exif=exif)
    figure = _draw(predictor, what, image, endpoint, channels, steps, seed)
    plots.save(figure, output, overwrite)
    print(printable(output))


def _draw(
    predictor: Predictor,
    what: Drawn,
    image: Path | None,
    endpoint: str | None,
    channels: list[int] | None,
    steps: int,
    seed: int,
) -> Figure:
    from inception_jax.explain import feature_visualization, plots

    name = predictor.info.model
    if what != "filters" and endpoint is None:
        raise UserError(f"{what} needs --endpoint, one of {', '.join(predictor.model.table)}.")
    if what == "filters":
        return plots.draw_grid(feature_visualization.first_filters(predictor.weights.variables), f"{name}, first layer")
    if what == "activations":
        if image is None:
            raise UserError("activations needs --image.")
        shown, values = feature_visualization.activations(predictor, image, str(endpoint), channels)
        return plots.draw_grid(values, f"{name}, {endpoint} of {image.name}", [f"{i}" for i in shown], "magma")
    if (count := predictor.info.in_channels) not in (1, 3):
        raise UserError(f"{name} reads images of {count} channels; maximise draws grey ones and RGB.")
    shown = list(channels or range(9))
    images = [feature_visualization.maximise(predictor, str(endpoint), i, steps=steps, seed=seed).image for i in shown]
    images = [image[..., 0] if count == 1 else image for image in images]
    return plots.draw_grid(images, f"{name}, what excites {endpoint}", [f"{i}" for i in shown])


def _explain(
    predictor: Predictor, image: Path, classes: list[str] | None, method: Method, endpoint: str | None
) -> Explanation:
    from inception_jax.explain import cam

    if method == "gradcam":
        return cam.grad_cam(predictor, [image], endpoint, classes)
    return (cam.cam if method == "cam" else cam.occlusion)(predictor, [image], classes)
