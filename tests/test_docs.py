"""What the documents say of the code is true: the examples, the links, the configs."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_example_of_the_readme_runs(monkeypatch):
    """With `jit` replaced by tracing: the shapes are the point, and compiling takes half a minute."""
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = (each for each in examples if "googlenet_bn" in each)
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
