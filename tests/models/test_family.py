"""The descendants of GoogLeNet: counts, costs and maps as their papers and originals state them, by `summarize`."""

import jax
import jax.numpy as jnp
import pytest

from inception_jax.describe import summary
from inception_jax.models import zoo
from tests.models.golden_rows import ROWS
from tests.selection import networks

GIGA_MACS = {  # as the originals' documentation prints them
    "inception_v1_slim": 1.498,
    "bn_inception": 2.033,
    "inception_v2": 1.935,
    "inception_v3": 5.713,
    "inception_v4": 12.254,
    "inception_resnet_v2": 13.156,
    "xception": 8.357,
}
# All variables of TF-slim's networks without classifier (weights, biases, beta, mean, variance), from its own tests.
SLIM_BASE = {"inception_v1_slim": 5_607_184, "inception_v2": 10_173_112, "inception_v3_tf": 21_802_784}


@pytest.mark.parametrize("name", GIGA_MACS)
def test_multiply_adds_as_printed(name):
    assert round(summary.summarize(name).totals["macs"] / 1e9, 3) == GIGA_MACS[name]


@pytest.mark.parametrize("name", SLIM_BASE)
def test_variables_of_slim_without_the_classifier(name):
    rows = [row for row in summary.summarize(name).rows if row.name != "linear"]
    assert sum(row.params + 2 * row.norm for row in rows) == SLIM_BASE[name]  # as many means and variances as betas


@pytest.mark.parametrize("name", ROWS)
def test_rows(name):
    found = summary.summarize(name)
    rows = {row.name: row for row in (*found.rows, *found.aux) if row.kind not in ("dropout", "average pool")}
    if name != "inception_v3":
        rows = {key: row for key, row in rows.items() if not key.startswith("aux")}
    assert {key: (row.output[0], row.output[2], row.params, row.macs) for key, row in rows.items()} == ROWS[name]


def test_variants_share_their_endpoints():
    for one, other in (("inception_v3", "inception_v3_tf"), ("xception", "xception_timm")):
        assert [(row.name, row.output, row.macs) for row in summary.summarize(one).rows if row.kind != "dropout"] == [
            (row.name, row.output, row.macs) for row in summary.summarize(other).rows if row.kind != "dropout"
        ]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (299, (149, 73, 35, 17, 8)),
        (224, (111, 54, 25, 12, 5)),
        (150, (74, 35, 16, 7, 3)),
        (128, (63, 30, 13, 6, 2)),
        (96, (47, 22, 9, 4, 1)),
        (75, (37, 17, 7, 3, 1)),
    ],
)
def test_map_sizes_of_v3(size, expected):
    rows = {row.name: row.output[0] for row in summary.summarize("inception_v3", size, width=0.1, aux=False).rows}
    names = ("Conv2d_1a_3x3", "MaxPool_3a_3x3", "MaxPool_5a_3x3", "Mixed_6a", "Mixed_7a")
    assert tuple(rows[name] for name in names) == expected


def test_depth_counts_layers_on_the_longest_path():
    # Xception: 36 convolutions (1610.02357, section 4) and the classifier; a separable one counts once.
    depths = {
        name: summary.summarize(name).totals["depth"] for name in ("inception_v1_slim", "inception_v3", "xception")
    }
    assert depths == {"inception_v1_slim": 22, "inception_v3": 48, "xception": 37}


def test_forks_residuals_and_separable_convolutions_in_words():
    words = {
        name: {row.name: row.branches for row in (*summary.summarize(name).rows, *summary.summarize(name).aux)}
        for name in ("inception_v3", "inception_resnet_v2", "xception")
    }
    assert words["inception_v3"]["Mixed_7b"] == "320 | 384-(384 | 384) | 448-384-(384 | 384) | 192"
    assert words["inception_v3"]["Mixed_6a"] == "384 | 64-96-96"
    assert words["inception_v3"]["aux Mixed_6e"] == "128-768-1000"
    assert words["inception_resnet_v2"]["block35_1"] == "32 | 32-32 | 32-48-64"
    assert words["xception"]["block2"] == "128-128 + 128"
    assert words["xception"]["block14_sepconv2"] == "2048"


@pytest.mark.parametrize("name", networks(["inception_resnet_v1", "inception_resnet_v2", "xception"]))
@pytest.mark.parametrize("width", [0.05, 0.3])
def test_any_width_keeps_residuals_addable(name, width):
    model = zoo.create_model(name, width=width, aux=False)
    output = jax.eval_shape(lambda key: model.init_with_output(key, jnp.zeros((1, 75, 75, 3)))[0], jax.random.key(0))
    assert output.logits.shape == (1, 1000)
