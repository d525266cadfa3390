"""GoogLeNet and its variants as the papers' tables state them; all figures come from the modules (`summarize`)."""

import jax
import jax.numpy as jnp
import pytest

from inception_jax.describe import summary
from inception_jax.models import googlenet, layers, spec, zoo
from tests.models.golden_rows import GOLDEN

# Row: output, depth, weights, biases, millions of MACs (1409.4842, Table 1, with exact figures for a dense 7x7 stem).
TABLE_1 = {
    "conv1": ((112, 112, 64), 1, 9_408, 64, 118.0),
    "pool1": ((56, 56, 64), 0, 0, 0, 0),
    "conv2": ((56, 56, 192), 2, 114_688, 256, 359.7),
    "pool2": ((28, 28, 192), 0, 0, 0, 0),
    "3a": ((28, 28, 256), 2, 163_328, 368, 128.0),
    "3b": ((28, 28, 480), 2, 388_096, 640, 304.3),
    "pool3": ((14, 14, 480), 0, 0, 0, 0),
    "4a": ((14, 14, 512), 2, 375_552, 624, 73.6),
    "4b": ((14, 14, 512), 2, 448_512, 648, 87.9),
    "4c": ((14, 14, 512), 2, 509_440, 664, 99.9),
    "4d": ((14, 14, 528), 2, 604_672, 704, 118.5),
    "4e": ((14, 14, 832), 2, 867_328, 1_024, 170.0),
    "pool4": ((7, 7, 832), 0, 0, 0, 0),
    "5a": ((7, 7, 832), 2, 1_042_432, 1_024, 51.1),
    "5b": ((7, 7, 1024), 2, 1_442_816, 1_264, 70.7),
    "pool5": ((1, 1, 1024), 0, 0, 0, 0),
    "drop": ((1, 1, 1024), 0, 0, 0, 0),
    "linear": ((1, 1, 1000), 1, 1_024_000, 1_000, 1.0),
}
# Row: parameters and MACs of torchvision's network.
TORCHVISION = {
    "conv1": (9_536, 118_013_952),
    "conv2": (4_224 + 110_976, 12_845_056 + 346_816_512),
    "3a": (155_872, 121_626_624),
    "3b": (340_224, 265_732_096),
    "4a": (364_512, 71_199_744),
    "4b": (425_232, 83_091_456),
    "4c": (486_192, 95_033_344),
    "4d": (573_312, 112_093_184),
    "4e": (803_840, 157_151_232),
    "5a": (978_944, 47_867_904),
    "5b": (1_347_040, 65_881_088),
    "linear": (1_025_000, 1_024_000),
}
# Block: size and channels of its input as in Table 1; output channels, weights, millions of MACs of fig. 2a.
NAIVE = {
    "3a": (28, 192, 416, 387_072, 303.5),
    "3b": (28, 256, 672, 1_089_536, 854.2),
    "4a": (14, 480, 928, 1_566_720, 307.1),
    "4b": (14, 512, 960, 1_933_312, 378.9),
    "4c": (14, 512, 960, 2_064_384, 404.6),
    "4d": (14, 512, 976, 2_203_648, 431.9),
    "4e": (14, 528, 1232, 3_345_408, 655.7),
    "5a": (7, 832, 1536, 5_271_552, 258.3),
    "5b": (7, 832, 1728, 5_857_280, 287.0),
}
NAMES = [name for name in GOLDEN if name.startswith("googlenet")]
FULL_STEM = {"conv1": (112, 64), "pool1": (56, 64), "conv2_reduce": (56, 64), "conv2": (56, 192), "pool2": (28, 192)}
BODY_224 = {
    "3a": (28, 256), "3b": (28, 480), "pool3": (14, 480),
    "4a": (14, 512), "4b": (14, 512), "4c": (14, 512), "4d": (14, 528), "4e": (14, 832), "pool4": (7, 832),
    "5a": (7, 832), "5b": (7, 1024),
}  # fmt: skip


@pytest.fixture(scope="module")
def summaries():
    return {name: summary.summarize(name) for name in NAMES}


def _variables(name, size=None, **kwargs):
    model = zoo.create_model(name, **kwargs)
    size = size or zoo.model_card(name).preprocess.size
    return jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, size, size, 3))), jax.random.key(0))


def _endpoints(name, size):
    model = zoo.create_model(name)
    images = jnp.zeros((1, size, size, 3))
    output = jax.eval_shape(lambda key: model.init_with_output(key, images)[0], jax.random.key(0))
    return {key: (maps.shape[1], maps.shape[-1]) for key, maps in output.endpoints.items()}


def test_table_1_from_the_paper_network(summaries):
    rows = {row.name: row for row in summaries["googlenet"].rows if row.kind != "local response norm"}
    assert list(rows) == list(TABLE_1)
    for name, (output, depth, weights, biases, mega_macs) in TABLE_1.items():
        row = rows[name]
        assert (row.output, row.depth, row.weights, row.biases) == (output, depth, weights, biases), name
        assert row.macs / 1e6 == pytest.approx(mega_macs, abs=0.051), name


def test_table_1_totals(summaries):
    totals = summaries["googlenet"].totals
    assert totals["depth"] == 22
    assert (totals["weights"], totals["biases"], totals["norm"]) == (6_990_272, 8_280, 0)
    assert totals["macs"] == 1_582_671_872


def test_table_1_widths_stand_under_the_papers_headings(summaries):
    columns = summary.headings(zoo.MODELS["googlenet"].table)
    assert columns == ("#1x1", "#3x3 reduce", "#3x3", "#5x5 reduce", "#5x5", "pool proj")
    rows = {row.name: summary.features(row, columns) for row in summaries["googlenet"].rows}
    assert list(rows["4e"].values()) == [256, 160, 320, 32, 128, 128]
    assert rows["conv2"] == {1: 64, 2: 192}
    assert rows["conv1"] == rows["linear"] == {}


def test_rows_of_torchvision(summaries):
    found = {row.name: (row.params, row.macs) for row in summaries["googlenet_torchvision"].rows if row.params}
    assert found == TORCHVISION
    assert [(row.params, row.macs) for row in summaries["googlenet_torchvision"].aux] == [
        (3_188_968, 4_169_728),
        (3_191_016, 4_202_496),
    ]


def test_heads_of_the_paper(summaries):
    assert [row.params for row in summaries["googlenet"].aux] == [3_188_840, 3_190_888]
    assert [round(row.macs / 1e6, 2) for row in summaries["googlenet"].aux] == [4.17, 4.20]


def test_headings_follow_the_blocks_of_the_variant():
    assert summary.headings(googlenet.GOOGLENET_NAIVE) == ("#1x1", "#3x3", "#5x5")
    assert summary.headings(googlenet.GOOGLENET_TORCHVISION)[3:5] == ("#3x3 reduce", "#3x3")
    mixed = googlenet.GOOGLENET | {"5b": googlenet.GOOGLENET_NAIVE["5b"]}
    assert summary.headings(mixed) is None


def test_blocks_of_any_shape_are_described_by_branch(summaries):
    rows = {row.name: row.branches for row in summaries["googlenet"].rows}
    assert rows["3a"] == "64 | 96-128 | 16-32 | 32"
    assert rows["conv2"] == "64-192"
    assert rows["pool1"] == ""


@pytest.mark.parametrize("name", NAIVE)
def test_naive_modules_on_the_inputs_of_table_1(name):
    size, inputs, outputs, weights, mega_macs = NAIVE[name]
    numerics = spec.CAFFE
    block = layers.Inception(
        googlenet.GOOGLENET_NAIVE[name],
        lambda row, name: layers.ConvNormAct(row, numerics, name=name),
        lambda maps, row: layers.pool(maps, row, numerics),
    )
    maps = jnp.zeros((1, size, size, inputs))
    out, variables = jax.eval_shape(lambda key: block.init_with_output(key, maps, False), jax.random.key(0))
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 4]
    assert out.shape == (1, size, size, outputs)
    assert sum(kernel.size for kernel in kernels) == weights
    assert weights * size * size / 1e6 == pytest.approx(mega_macs, abs=0.051)


def test_naive_network_grows_as_its_pools_pass_everything_on(summaries):
    channels, expected = 192, {}
    for name in NAIVE:
        channels += NAIVE[name][2] - NAIVE[name][1]  # three convolutions add, the pool passes on
        expected[name] = channels
    found = {row.name: row.output[-1] for row in summaries["googlenet_naive"].rows if row.name in NAIVE}
    assert found == expected


@pytest.mark.parametrize("name", ["googlenet", "googlenet_bn", "googlenet_torchvision"])
def test_endpoints_at_224(name):
    found = _endpoints(name, 224)
    norms = {"norm1": (56, 64), "norm2": (56, 192)} if name == "googlenet" else {}
    assert found == FULL_STEM | norms | BODY_224


@pytest.mark.parametrize(
    ("size", "expected"),
    [(192, (96, 48, 24, 12, 6)), (160, (80, 40, 20, 10, 5)), (128, (64, 32, 16, 8, 4)), (32, (16, 8, 4, 2, 1))],
)
def test_map_sizes_of_torchvision_at_other_inputs(size, expected):
    found = _endpoints("googlenet_torchvision", size)
    assert tuple(found[name][0] for name in ("conv1", "pool1", "pool2", "pool3", "pool4")) == expected


def test_the_cifar_network_keeps_28_as_32():
    found = _endpoints("googlenet_cifar", 32)
    assert {found["conv1"], found["3a"], found["4a"], found["5a"]} == {(32, 192), (32, 256), (16, 512), (8, 832)}


@pytest.mark.parametrize("width", [0.25, 0.5, 1.5])
def test_width_reaches_every_convolution_and_the_heads(width):
    full, scaled = (_variables("googlenet_bn", width=w)["params"] for w in (1.0, width))

    def check(path, full, scaled):
        wanted = full.shape[-1] if "classifier" in path else max(int(full.shape[-1] * width), 16)
        assert scaled.shape[-1] == wanted, path

    jax.tree_util.tree_map_with_path(lambda path, *leaves: check([key.key for key in path], *leaves), full, scaled)
    assert scaled["aux_4a"]["hidden"]["kernel"].shape == (16 * max(int(128 * width), 16), int(1024 * width))


def test_macs_follow_the_image_size():
    at = {size: summary.summarize("googlenet", size, aux=False).totals["macs"] - 1_024_000 for size in (224, 448)}
    assert at[448] == 4 * at[224]


def test_summary_is_weights_plus_biases_plus_norm(summaries):
    for found in summaries.values():
        for row in (*found.rows, *found.aux):
            assert row.params == row.weights + row.biases + row.norm
            assert row.weights == sum(layer.weights for layer in row.layers)
