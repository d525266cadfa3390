"""The descendants of GoogLeNet under synthetic weights, as tests/models/test_golden.py does it.

The values come from torchvision, timm, pretrainedmodels, facenet-pytorch and pytorch-fid in float64, those of TF's and
Keras's numerics from these networks so changed, those of Inception-v2 from tests/parity/slim_v2.py. What the lineages
do differently must miss the other's values.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.models import layers, spec, xception, zoo
from tests.models.test_golden import _assert_close, _misses, _statistics
from tests.parity import fixtures
from tests.selection import slow

TAPS = {  # mean and standard deviation (N - 1)
    "inception_v3": {
        "Conv2d_4a_3x3": (0.746751621, 1.10522177),
        "Mixed_5d": (0.656122518, 0.942759797),
        "Mixed_6e": (0.747918582, 1.11962025),
        "Mixed_7c": (0.905121851, 1.37279409),
    },
    "inception_v4": {
        "Mixed_5a": (0.636727235, 0.814091703),
        "Mixed_5e": (0.745488109, 1.16755641),
        "Mixed_6h": (0.497735461, 0.761323028),
        "Mixed_7d": (0.548722176, 0.854065347),
    },
    "inception_resnet_v2": {
        "Mixed_5b": (0.756586757, 1.1595913),
        "block35_10": (3.43216014, 4.93102753),
        "block17_20": (11.9986483, 15.5531048),
        "Conv2d_7b_1x1": (77.1438311, 116.768996),
    },
    "inception_resnet_v1": {
        "block35_5": (1.00482107, 1.15216947),
        "Mixed_6a": (1.01706692, 1.29964588),
        "block17_10": (1.85280138, 2.35410217),
        "block8_5": (3.57908421, 4.24828373),
        "Block8": (3.65206834, 11.4688885),
    },
    "inception_v3_fid": {
        "Mixed_5d": (0.664936333, 0.94892449),
        "Mixed_7b": (0.966806712, 1.46829857),
        "Mixed_7c": (0.961697329, 1.44990603),
    },
    "xception_timm": {
        "block4": (1.64862693, 6.81403192),
        "block12": (-29.0227795, 1356.4203),
        "block14_sepconv2": (1184.15662, 1928.98675),
    },
}
CHANGES = {"inception_resnet_v1": "gamma"}  # the values of the other taps are those of the model as it is
CLASSES = {"inception_v3_fid": 1008}
SAME_PARAMETERS = {"inception_v3_tf": "inception_v3", "xception": "xception_timm"}  # under the changes below
# Model and what is changed in its numerics: logits 0 to 3, sum of all logits, argmax.
LOGITS = {
    ("inception_v1_slim", "gamma"): ((-3.8009924, 1.80037916, 4.87897576, -2.46944179), -67.1123771, 509),
    ("inception_v2", ""): ((-0.0269248143, -2.77051907, 2.57371926, -5.12493433), -35.0006303, 139),
    ("bn_inception", ""): ((1.14963354, -4.98203651, 1.09467194, -8.54216704), -81.2035015, 635),
    ("inception_v3_fid", ""): ((-0.850659787, -1.09806605, 0.436541235, -2.37758741), 28.4096292, 366),
    ("inception_v3", ""): ((-0.886445225, -1.11102407, 0.19602853, -2.18603092), 4.02328212, 556),
    ("inception_v3_tf", "gamma"): ((-0.871022839, -1.07262969, 0.262498353, -2.25334136), 9.2748776, 556),
    ("inception_v4", ""): ((-2.18852932, 0.742910431, -0.730109164, -1.17903976), -1.34464724, 197),
    ("inception_resnet_v2", ""): ((-481.366139, 222.566841, -148.493153, -243.924662), 5328.77063, 10),
    ("xception_timm", ""): ((141.73401, -418.645971, -723.209948, 571.52671), 161641.638, 989),
    ("xception_timm", "epsilon"): ((141.961058, -414.375684, -713.25108, 565.567054), 159879.53, 989),
    ("xception", ""): ((136.42211, -437.898136, -720.257817, 565.609032), 159216.296, 989),
}
AUX_OF_V3 = ((-2.22522264, 2.01422122, 0.10891562, 0.875388626), -27.771607)
DTYPES = ("float32", "float64")
# Of rows that the others have too; `make parity` compares them with their originals in float32.
LARGE = (
    "inception_v4",
    "inception_resnet_v2",
    "inception_v3_fid",
    "bn_inception",
    "inception_v1_slim",
    "inception_resnet_v1",
)


def _dtypes(name):
    return DTYPES[1:] if name in LARGE else DTYPES


def _by_dtype(name, *others):
    """Returns the case of a test. `make test` runs inception_v3 in float32, and all but the large ones in float64."""
    case = (name, *others)
    is_fast = name not in LARGE if others[-1] == "float64" else name == "inception_v3"
    return case if is_fast else slow(case)


def _numerics(name, change=""):
    numerics = zoo.MODELS[name].numerics
    match change:
        case "gamma":  # the values were made with gains, which TF-slim does not learn
            return numerics._replace(norm=numerics.norm._replace(scale=True))
        case "epsilon":
            other = {1e-3: 1e-5, 1e-5: 1e-3}[numerics.norm.epsilon]
            return numerics._replace(norm=numerics.norm._replace(epsilon=other))
        case "count":
            return numerics._replace(count_padding=not numerics.count_padding)
        case "convolutions":
            return numerics._replace(conv_same="symmetric" if numerics.conv_same == "tf" else "tf")
        case "pools":
            return numerics._replace(pool_same="symmetric")
    return numerics


@functools.lru_cache(maxsize=2)  # the largest is 450 MB
def _double(name, gamma):
    model = zoo.create_model(name, CLASSES.get(name, 1000), numerics=_numerics(name, gamma))
    return fixtures.fill(fixtures.shapes(model, zoo.MODELS[name].preprocess.size), "float64")


@functools.cache
def _single(name, gamma):
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), _double(name, gamma))


def _compiled(function, *args):
    return jax.jit(function)(*args)


def _inputs(name, change="", dtype="float32"):
    gamma = "gamma" if change == "gamma" else ""
    if name in SAME_PARAMETERS:
        name, gamma = SAME_PARAMETERS[name], ""
    return (_double if dtype == "float64" else _single)(name, gamma), fixtures.image(
        zoo.MODELS[name].preprocess.size, dtype
    )


@functools.cache
def _run(name, change, dtype):
    """Returns the logits of the synthetic image, and the statistics of the taps."""
    with jax.enable_x64(dtype == "float64"):
        numerics = _numerics(name, change)
        model = zoo.create_model(name, CLASSES.get(name, 1000), numerics=numerics, dtype=jnp.dtype(dtype))

        def outputs(*args):
            output = model.apply(*args)
            return output.logits[0], {tap: output.endpoints[tap] for tap in (*TAPS.get(name, {}), *model.aux_heads)}

        return _compiled(outputs, *_inputs(name, change, dtype))


def _tap(name, tap, change="", table=None):
    """Returns the statistics of one endpoint in float64, by a network that ends there."""
    model = zoo.create_model(name, numerics=_numerics(name, change), features_only=tap, dtype=jnp.float64)
    model = model.clone(table=dict(model.table) | (table or {}))
    size = zoo.MODELS[name].preprocess.size
    with jax.enable_x64(True):
        variables = fixtures.fill(fixtures.shapes(model, size), "float64")
        run = jax.jit(lambda *args: model.apply(*args).endpoints[tap])
        return _statistics(run(variables, fixtures.image(size, "float64")))


@pytest.mark.parametrize(
    ("name", "change", "dtype"),
    [_by_dtype(*key, dtype) for key in LOGITS for dtype in _dtypes(key[0])],
)
def test_logits(name, change, dtype):
    first, total, best = LOGITS[name, change]
    logits = np.asarray(_run(name, change, dtype)[0])
    assert logits.dtype == dtype
    _assert_close(logits[:4], np.array(first), dtype)
    _assert_close(logits.sum(dtype=np.float64), np.array(total), dtype)
    assert logits.argmax() == best


@pytest.mark.parametrize(("name", "dtype"), [_by_dtype(name, dtype) for name in TAPS for dtype in _dtypes(name)])
def test_endpoint_statistics(name, dtype):
    _, maps = _run(name, CHANGES.get(name, ""), dtype)
    for tap, expected in TAPS[name].items():
        _assert_close(np.array(_statistics(maps[tap])), np.array(expected), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_head_of_v3(dtype):
    name, numerics = "inception_v3", _numerics("inception_v3")
    variables, _ = _inputs(name, "", dtype)
    first, total = AUX_OF_V3
    with jax.enable_x64(dtype == "float64"):
        head = layers.AuxHead(
            zoo.MODELS[name].aux_heads["Mixed_6e"],
            1000,
            numerics,
            functools.partial(layers.ConvNormAct, numerics=numerics, dtype=jnp.dtype(dtype)),
            functools.partial(layers.pool, numerics=numerics),
            jnp.dtype(dtype),
        )
        own = {collection: tree["aux_Mixed_6e"] for collection, tree in variables.items()}
        logits = head.apply(own, _run(name, "", dtype)[1]["Mixed_6e"], train=False)[0]
    _assert_close(np.asarray(logits[:4]), np.array(first), dtype)
    _assert_close(np.asarray(logits, np.float64).sum(), np.array(total), dtype)


@pytest.mark.parametrize(
    ("name", "tap"),
    [("inception_v3", "Conv2d_4a_3x3"), ("inception_resnet_v2", "Mixed_5b"), ("xception_timm", "block4")],
)
def test_networks_that_end_at_a_tap_have_its_golden_values(name, tap):
    _assert_close(np.array(_tap(name, tap)), np.array(TAPS[name][tap]), "float64")


# The tests of what misses the golden values check the values, not the networks: after a change of golden values or
# tolerances.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tap", "change"),
    [
        ("inception_v3", "Mixed_5d", "count"),
        ("inception_v3", "Conv2d_4a_3x3", "epsilon"),
        ("inception_v4", "Mixed_5e", "count"),
        ("inception_v4", "Mixed_5a", "epsilon"),
        ("inception_resnet_v2", "Mixed_5b", "count"),
        ("inception_resnet_v2", "Mixed_5b", "epsilon"),
        ("xception_timm", "block4", "epsilon"),
    ],
)
def test_wrong_numerics_miss_the_golden_values(name, tap, change):
    assert _misses(_tap(name, tap, change), TAPS[name][tap])


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (("inception_v3", ""), ("inception_v3_tf", "gamma")),  # average pools count padding, or not
        (("xception_timm", ""), ("xception_timm", "epsilon")),
        (("xception_timm", "epsilon"), ("xception", "")),  # the pool from 74 to 37 pixels pads (1, 1), or (0, 1)
    ],
)
def test_lineages_miss_each_others_logits(name, other):
    for one, values in ((name, other), (other, name)):
        assert _misses(_run(*one, "float64")[0][:4], LOGITS[values][0])


@pytest.mark.slow
@pytest.mark.parametrize("change", ["count", "epsilon", "convolutions", "pools"])
@pytest.mark.parametrize("name", ["bn_inception", "inception_v2"])
def test_wrong_numerics_miss_the_logits(name, change):
    assert _misses(_run(name, change, "float32")[0][:4], LOGITS[name, ""][0])


def test_strides_pad_nothing_from_v3_to_inception_resnet():
    """So a wrong border rule cannot show in them, but for the average pools."""
    for name in ("inception_v3", "inception_v4", "inception_resnet_v1", "inception_resnet_v2"):
        rows = list(_walk(tuple(zoo.MODELS[name].table.values())))
        strided = [row for row in rows if isinstance(row, spec.Conv | spec.Pool) and row.stride > 1]
        assert len(strided) > 4
        assert {row.padding for row in strided} == {spec.VALID}


def _walk(rows):
    for row in rows:
        if not isinstance(row, spec.Row):
            for branch in row:
                yield from _walk(branch)
        elif isinstance(row, spec.Residual):
            yield from _walk(row.rows)
        else:
            yield row


def _residual(name, row, **changes):
    return {row: zoo.MODELS[name].table[row]._replace(**changes)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tap", "row", "changes"),
    [
        ("inception_resnet_v2", "block35_10", "block35_1", {"scale": 0.2}),
        ("inception_resnet_v2", "block35_10", "block35_10", {"relu": False}),
        ("inception_resnet_v2", "Conv2d_7b_1x1", "Block8", {"relu": True}),
        # Its leading ReLU left out: a pool over one pixel keeps the places of the others.
        ("xception_timm", "block4", "block4", {"rows": (spec.Pool("max", 1), *xception.XCEPTION["block4"].rows[1:])}),
        ("xception_timm", "block4", "block4", {"relu": True}),
    ],
)
def test_wrong_residuals_miss_the_golden_values(name, tap, row, changes):
    assert _misses(_tap(name, tap, table=_residual(name, row, **changes)), TAPS[name][tap])
