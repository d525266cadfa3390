"""What the documents say of the code is true: the table of models, the example, the links, the configs."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from inception_jax import list_models
from inception_jax.describe.models_page import models_markdown
from inception_jax.describe.summary import summarize

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
ROWS_OF_MODELS = re.findall(
    r"^\| `(\w+)` \|.*\| ([\d,]+) / ([\d,]+) \| ([\d.]+) at (\d+) \|$", (ROOT / "README.md").read_text(), re.M
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_table_of_models_is_the_zoo():
    assert sorted(row[0] for row in ROWS_OF_MODELS) == sorted(list_models())


@pytest.mark.parametrize(("name", "params", "params_with_aux", "gmacs", "size"), ROWS_OF_MODELS)
def test_figures_of_the_table(name, params, params_with_aux, gmacs, size):
    found = summarize(name)
    assert f"{found.totals['params']:,}" == params
    assert f"{found.totals['params_with_aux']:,}" == params_with_aux
    assert f"{found.totals['macs'] / 1e9:.3f}" == gmacs
    assert f"{found.image_size}" == size


def test_models_are_documented_as_they_are():
    """`make docs` writes the file."""
    assert (ROOT / "docs" / "MODELS.md").read_text() == models_markdown()


def test_example_of_the_readme_runs(monkeypatch):
    """With `jit` replaced by tracing: the shapes are the point, and compiling takes half a minute."""
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.setattr(jax, "jit", lambda function: functools.partial(jax.eval_shape, function))
    names: dict = {}
    exec(example, names)
    output = names["output"]
    assert (output.logits.shape, output.logits.dtype) == ((8, 1000), "float32")
    assert output.endpoints["4e"].shape == (8, 14, 14, 832)
    assert {name: maps.shape[1:] for name, maps in names["features"].items()} == {
        "3b": (28, 28, 480),
        "4e": (14, 14, 832),
        "5b": (7, 7, 1024),
    }


def test_training_step_of_the_docs_runs(monkeypatch):
    """With `jit` replaced by tracing, as above."""
    text = (ROOT / "docs" / "TRAINING.md").read_text()
    (example,) = re.findall(r"```python\n(.*?train=True.*?)```", text, re.DOTALL)
    monkeypatch.setattr(jax, "jit", lambda function: functools.partial(jax.eval_shape, function))
    names: dict = {}
    exec(example, names)
    assert names["loss"].shape == ()
    for made, given in (("grads", "params"), ("batch_stats", "batch_stats")):
        assert jax.tree.map(jnp.shape, names[made]) == jax.tree.map(jnp.shape, names["variables"][given])


def test_every_config_has_its_row():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "TRAINING.md").read_text(), re.M)
    configs = {path.stem for path in (ROOT / "configs").glob("[a-z]*.py")} - {"default"}
    assert configs <= set(rows)
