"""The tables of models in README.md and docs/MODELS.md are those of the zoo; `make docs` writes them."""

import re
from pathlib import Path

import pytest

from inception_jax import list_models
from inception_jax.describe import models_page
from inception_jax.errors import UserError

ROOT = Path(__file__).parents[2]
README, MODELS = ROOT / "README.md", ROOT / "docs" / "MODELS.md"


def test_the_page_is_what_the_zoo_gives():
    assert MODELS.read_text() == models_page.models_markdown()


def test_the_table_of_the_readme_is_what_the_zoo_gives():
    assert models_page.readme_table() in README.read_text()
    assert models_page.with_table(README.read_text()) == README.read_text()


def test_the_table_has_a_row_for_each_model():
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([\d,]+ / [\d,]+) \| (.*) \|$", models_page.readme_table(), re.MULTILINE)
    assert [name for name, *_ in rows] == list_models()
    assert rows[0] == ("googlenet", "6,998,552 / 13,378,280", "1.583 at 224")


def test_the_documents_of_a_folder_are_written(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"a\n{models_page.BEGIN}\nold\n{models_page.END}\nb\n")
    models_page.write_documents(tmp_path)
    expected = f"a\n{models_page.BEGIN}\n{models_page.readme_table()}\n{models_page.END}\nb\n"
    assert (tmp_path / "README.md").read_text() == expected
    assert (tmp_path / "docs" / "MODELS.md").read_text() == MODELS.read_text()


@pytest.mark.parametrize("lines", [[], ["BEGIN"], ["END", "BEGIN"], ["BEGIN", "END", "END"]])
def test_a_readme_without_a_frame_for_the_table_is_refused(lines):
    text = "".join(f"{getattr(models_page, line)}\n" for line in lines)
    with pytest.raises(UserError, match="once each, in this order"):
        models_page.with_table(text)
