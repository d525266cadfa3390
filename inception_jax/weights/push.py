"""Publishes weights on the Hugging Face hub: our file of weights, a config in timm's layout, and a model card."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from inception_jax.errors import UserError, printable
from inception_jax.models import zoo
from inception_jax.paths import write_bytes
from inception_jax.version import __version__
from inception_jax.weights import files
from inception_jax.weights.files import Weights
from inception_jax.weights.hub.download import OFFLINE, offline
from inception_jax.weights.hub.huggingface import Unreachable, endpoint, explained
from inception_jax.weights.hub.repo_config import GEOMETRIES
from inception_jax.weights.places import CONFIG, WEIGHTS

CARD = "README.md"
LIBRARY = "inception_jax"


@dataclasses.dataclass(frozen=True)
class Measured:
    """An evaluation of the weights.

    Attributes:
      data: name of the data set.
      split: of it; "": not known.
      metrics: shares in 0 ... 1 by name, top1 and top5, and loss.
      how: what measured it.
    """

    data: str
    split: str
    metrics: dict[str, float]
    how: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the model card says besides what the weights say themselves.

    Attributes:
      licence: an identifier of the hub, such as "apache-2.0"; None: not stated.
      command: that made the weights; "": not recorded.
      measured: evaluations of these weights.
    """

    licence: str | None = None
    command: str = ""
    measured: tuple[Measured, ...] = ()


def write_folder(folder: Path, weights: Weights, repo: str, facts: Facts) -> None:
    """Writes what `push` uploads: model.safetensors, config.json and README.md. `local-dir:FOLDER` loads it.

    Args:
      folder: an existing one.
      weights: to publish.
      repo: "OWNER/NAME", for the code in the model card.
      facts: for the model card.

    Raises:
      UserError: a file cannot be written.
    """
    weights = without_folders(weights)
    files.save(folder / WEIGHTS[0], weights)
    config = json.dumps(config_of(weights, facts.licence), indent=2, ensure_ascii=False) + "\n"
    write_bytes(folder / CONFIG, config.encode(errors="backslashreplace"))
    write_bytes(folder / CARD, model_card(weights, repo, facts).encode(errors="backslashreplace"))


def without_folders(weights: Weights) -> Weights:
    """Returns the weights with the name alone of the file that they come from; folders are private."""
    source = Path(weights.info.source)
    if not source.is_absolute() and not source.exists():  # an id, or hf-hub:OWNER/NAME
        return weights
    return dataclasses.replace(weights, info=dataclasses.replace(weights.info, source=source.name))


def push(weights: Weights, repo: str, facts: Facts, *, private: bool = False) -> str:
    """Uploads weights, as one commit, and returns its address.

    The repository is created if it does not exist. The token is that of HF_TOKEN, or of `hf auth login`.

    Args:
      weights: to publish.
      repo: "OWNER/NAME".
      facts: for the model card.
      private: create a private repository.

    Raises:
      UserError: there is no token, the hub refuses, or `private` is asked for a repository that is public.
    """
    import huggingface_hub

    if offline():
        raise UserError(f"hf-hub:{printable(repo)}: nothing is uploaded, because {OFFLINE} is set.")
    if not huggingface_hub.get_token():
        raise UserError(f"hf-hub:{printable(repo)}: uploading needs a token with write access: set HF_TOKEN.")
    api = huggingface_hub.HfApi(endpoint=endpoint(), library_name=LIBRARY, library_version=__version__)
    message = f"{weights.info.model}, {weights.info.num_classes} classes"
    try:
        with tempfile.TemporaryDirectory() as folder, explained(f"hf-hub:{repo}"):
            write_folder(Path(folder), weights, repo, facts)
            api.create_repo(repo, private=private or None, exist_ok=True)
            if private and not api.model_info(repo).private:
                raise UserError(f"hf-hub:{printable(repo)} exists and is public; --private is for a new repository.")
            return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message).commit_url)
    except Unreachable as error:
        raise UserError(f"hf-hub:{printable(repo)}: nothing is uploaded: {error}.") from error


def config_of(weights: Weights, licence: str | None = None) -> dict[str, Any]:
    """Returns the content of config.json: timm's keys, and under "inception_jax" all of `weights.info`.

    Our loader reads the metadata of the file of weights instead, which say the same; the config is for other programs.
    """
    info, preprocess = weights.info, weights.info.preprocess
    model = info.create_model()
    crop_modes = {geometry: mode for mode, geometry in GEOMETRIES.items()}
    pretrained = {
        "input_size": [info.in_channels, preprocess.size, preprocess.size],
        "mean": [value / 255 for value in preprocess.mean],
        "std": [value / 255 for value in preprocess.std],
        "crop_pct": preprocess.crop_fraction,
        "crop_mode": crop_modes[preprocess.geometry],
        "interpolation": preprocess.interpolation,
        "num_classes": info.num_classes,
        "license": licence,
    }
    return {
        "architecture": info.model,
        "num_classes": info.num_classes,
        "num_features": model.num_features,
        **({"label_names": list(info.class_names)} if info.class_names else {}),
        "pretrained_cfg": {key: value for key, value in pretrained.items() if value is not None},
        "library_name": LIBRARY,
        LIBRARY: {
            "version": __version__,
            "format_version": files.FORMAT_VERSION,
            "info": json.loads(files.to_json(info)),
        },
    }


def model_card(weights: Weights, repo: str, facts: Facts) -> str:
    """Returns the text of README.md: metadata for the hub, then what the weights are and how to use them."""
    sections = [
        f"---\n{_metadata(weights, repo, facts)}\n---",
        f"# {repo.rpartition('/')[2]}",
        _what(weights, facts),
        _accuracy(facts),
        _made(weights, facts),
        _use(repo),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _metadata(weights: Weights, repo: str, facts: Facts) -> str:
    """Returns the YAML that the hub reads."""
    import huggingface_hub

    results = [
        huggingface_hub.EvalResult(
            task_type="image-classification",
            dataset_type=each.data,
            dataset_name=each.data,
            dataset_split=each.split or None,
            metric_type="accuracy",
            metric_name={"top1": "top-1", "top5": "top-5"}[name],
            metric_value=round(each.metrics[name], 6),
        )
        for each in facts.measured
        for name in ("top1", "top5")
        if name in each.metrics
    ]
    data = huggingface_hub.ModelCardData(
        library_name=LIBRARY,
        license=facts.licence,
        pipeline_tag="image-classification",
        tags=["jax", "flax", weights.info.model],
        eval_results=results or None,
        model_name=repo.rpartition("/")[2] if results else None,
    )
    return str(data.to_yaml())


def _what(weights: Weights, facts: Facts) -> str:
    """Returns a table of what the weights are."""
    info = weights.info
    model = zoo.model_card(info.model)
    names = ", ".join(map(_cell, info.class_names[:10])) + (", ..." if len(info.class_names) > 10 else "")
    rows = {
        "network": f"`{info.model}`: {model.summary} ([{model.paper}](https://arxiv.org/abs/{model.paper}))",
        "width": f"{info.width:g}" if info.width != 1 else "",
        "classes": f"{info.num_classes:,}" if info.num_classes else "none: it returns features",
        "class names": names,
        "input": f"{info.preprocess.size} x {info.preprocess.size} pixels, {info.in_channels} channels",
        "auxiliary heads": "yes" if info.aux else "no",
        "licence": facts.licence or "not stated",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value)])


def _accuracy(facts: Facts) -> str:
    """Returns a table of the evaluations."""
    if not facts.measured:
        return "## Accuracy\n\nNot measured."
    rows = [
        f"| {_cell(each.data)}{f', {_cell(each.split)}' if each.split else ''} | "
        f"{_share(each.metrics.get('top1'))} | {_share(each.metrics.get('top5'))} | {_cell(each.how)} |"
        for each in facts.measured
    ]
    return "\n".join(["## Accuracy", "", "| data | top-1 | top-5 | measured by |", "|---|---|---|---|", *rows])


def _made(weights: Weights, facts: Facts) -> str:
    """Returns where the weights come from, and the command that made them."""
    info = weights.info
    source = f"Source: {_cell(info.source)}{f' (SHA-256 {info.sha256})' if info.sha256 else ''}." if info.source else ""
    command = (
        f"```\n{printable(facts.command)}\n```" if facts.command else "The command that made them is not recorded."
    )
    return "\n\n".join(filter(None, ["## How they were made", source, command]))


def _use(repo: str) -> str:
    """Returns the code that uses the weights."""
    return f"""\
## Use

```python
import inception_jax as ij

loaded = ij.load("hf-hub:{repo}")
predict = ij.Predictor(loaded.weights)
print(predict("photograph.jpg"))

model, variables = loaded  # a Flax module and its variables
```

```
inception-jax predict photograph.jpg --weights hf-hub:{repo}
```"""


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _cell(text: str) -> str:
    """Returns a text for a cell of a table."""
    return printable(text).replace("|", "\\|")
