"""Layers between pooling and classifier, features in timm's words, and the order of endpoints behind `jax.jit`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import inception_jax as ij
from inception_jax.describe import diagram, summary
from inception_jax.models import spec

HIDDEN = spec.Head((spec.Conv(16, norm=False), spec.Conv(5)))
FACE = spec.Head((spec.Conv(7, relu=False),), embedding=True)
ROWS = ("conv1", "pool3")


def _model(head, rows=ROWS, **settings):
    """Returns a few rows of a narrow googlenet_cifar."""
    model = ij.create_model("googlenet_cifar", 3, aux=False, width=0.05, dropout=0.0, head=head, **settings)
    return model.clone(table={name: model.table[name] for name in rows})


def _variables(model, size=16):
    """Returns variables drawn at random, also those that start at zero or one."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    flat = traverse_util.flatten_dict(dict(shapes))
    drawn = {
        path: np.abs(rng.standard_normal(leaf.shape, np.float32)) + 0.5 * (path[-1] == "var")
        if path[-1] in ("var", "scale")
        else rng.standard_normal(leaf.shape, np.float32) / np.sqrt(max(np.prod(leaf.shape[:-1]), 1))
        for path, leaf in flat.items()
    }
    return traverse_util.unflatten_dict(drawn)


IMAGES = np.random.default_rng(1).standard_normal((4, 16, 16, 3)).astype(np.float32)


def _dense(features, row, params, stats, moments=None):
    """Returns a row of a head by hand; `moments` of the batch in place of the running ones."""
    y = features @ params["conv"]["kernel"][0, 0]
    if not row.norm:
        y = y + params["conv"]["bias"]
    else:
        mean, var = (y.mean(0), y.var(0)) if moments else (stats["bn"]["mean"], stats["bn"]["var"])
        y = (y - mean) / np.sqrt(var + 1e-3) * params["bn"]["scale"] + params["bn"]["bias"]
    return np.maximum(y, 0) if row.relu else y


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("head", [HIDDEN, FACE], ids=["hidden", "embedding"])
def test_the_head_by_hand(head, train):
    model = _model(head)
    variables = _variables(model)
    output = jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"] if train else False))(
        variables, IMAGES
    )
    output, updates = output if train else (output, None)
    np.testing.assert_allclose(output.pooled, output.endpoints["pool3"].mean((1, 2)), rtol=1e-5)
    features = np.asarray(output.pooled)
    params, stats = variables["params"], variables["batch_stats"].get("head", {})
    for j, row in enumerate(head.rows):
        before = features @ params["head"][f"rows_{j}"]["conv"]["kernel"][0, 0]
        if train and row.norm:
            new = updates["batch_stats"]["head"][f"rows_{j}"]["bn"]["mean"]
            old = stats[f"rows_{j}"]["bn"]["mean"]
            np.testing.assert_allclose(new, 0.9 * old + 0.1 * before.mean(0), rtol=1e-4, atol=1e-5)
        features = _dense(features, row, params["head"][f"rows_{j}"], stats.get(f"rows_{j}"), moments=train)
    linear = params["classifier"]["linear"]
    np.testing.assert_allclose(output.logits, features @ linear["kernel"] + linear["bias"], rtol=1e-3, atol=1e-4)
    expected = features / np.linalg.norm(features, axis=-1, keepdims=True) if head.embedding else np.zeros((4, 0))
    np.testing.assert_allclose(output.embedding, expected, rtol=1e-3, atol=1e-4)
    assert f"head='{head}'" in repr(model)


def test_groups_of_batch_norm_also_in_the_head():
    model, variables = _model(FACE, bn_group_size=2), _variables(_model(FACE))
    apply = jax.jit(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"])[0].embedding)
    halves = jnp.concatenate([apply(IMAGES[:2]), apply(IMAGES[2:])])
    np.testing.assert_allclose(apply(IMAGES), halves, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter_of_the_head():
    model, variables = _model(HIDDEN), _variables(_model(HIDDEN))

    def loss(params):
        output, _ = model.apply({**variables, "params": params}, IMAGES, train=True, mutable=["batch_stats"])
        return (output.logits * np.random.default_rng(2).standard_normal((4, 3))).sum()

    grads = traverse_util.flatten_dict(jax.jit(jax.grad(loss))(variables["params"])["head"])
    assert len(grads) == 5
    assert {path: np.abs(grad).max() > 1e-6 for path, grad in grads.items()} == dict.fromkeys(grads, True)


def test_an_embedding_of_zeros_is_zero():
    model = _model(spec.Head((spec.Conv(4, norm=False),), embedding=True))
    variables = _variables(model)
    variables["params"]["head"]["rows_0"]["conv"] = {"kernel": np.zeros((1, 1, 16, 4)), "bias": np.zeros(4)}
    assert np.array_equal(model.apply(variables, IMAGES).embedding, np.zeros((4, 4)))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ((spec.Conv(3),), r"head is \(Conv.*; it must be a spec\.Head"),
        (spec.Head((spec.Conv(3, (3, 3)),)), "rows of a head are spec.Conv of 1x1 pixels"),
        (spec.Head((spec.Pool("max"),)), "rows of a head are spec.Conv"),
        (spec.Head((spec.Conv(0),)), "features of a row of head is 0; it must be at least 1"),
        (spec.Head(embedding=True), "embedding without rows"),
    ],
)
def test_heads_that_are_refused(head, message):
    with pytest.raises(ValueError, match=message):
        ij.create_model("googlenet_cifar", head=head)


def test_num_features_and_reset_classifier():
    for name, count in (("googlenet", 1024), ("inception_v3", 2048), ("inception_resnet_v2", 1536), ("xception", 2048)):
        assert ij.create_model(name).num_features == count
    assert ij.create_model("inception_v3", features_only="Mixed_5d").num_features == 288
    model = ij.create_model("inception_v3", 7, head=HIDDEN)
    assert (model.reset_classifier(4).num_classes, model.reset_classifier(4).head) == (4, spec.NO_HEAD)
    assert (model.reset_classifier(4).aux_heads.keys(), model.reset_classifier(0).aux_heads) == ({"Mixed_6e"}, {})
    assert model.num_classes == 7
    assert ij.create_model("inception_v3", head=FACE).reset_classifier(0).head == FACE


def test_endpoints_keep_the_order_of_the_table_behind_jit():
    names = ["pool3", "conv1", "pool4"]  # neither the order of the alphabet nor its reverse
    model = _model(spec.NO_HEAD, rows=names)
    variables = _variables(model)
    assert list(jax.jit(model.apply)(variables, IMAGES).endpoints) == names
    asked = model.clone(features=("pool3", "conv1"))
    assert list(jax.eval_shape(jax.jit(asked.apply), variables, IMAGES).endpoints) == ["pool3", "conv1"]


def test_summary_and_diagram_show_the_head():
    rows = {row.name: row for row in summary.summarize("googlenet_cifar", head=HIDDEN).rows}
    assert list(rows)[-4:] == ["pool5", "head", "drop", "linear"]
    assert (rows["head"].branches, rows["head"].depth, rows["head"].output) == ("16-5", 2, (1, 1, 5))
    assert rows["head"].params == 1024 * 16 + 16 + 16 * 5 + 5 + 5
    assert (rows["linear"].weights, rows["head"].macs) == (5 * 1000, 1024 * 16 + 16 * 5)
    without_classes = summary.summarize("googlenet_cifar", num_classes=0, aux=False, head=FACE, in_channels=1).rows
    assert [(row.name, row.kind) for row in without_classes[-2:]] == [("pool5", "average pool"), ("head", "embedding")]
    assert without_classes[0].weights == 192 * 9
    texts = {text.get_text() for text in diagram.draw("googlenet_cifar", head=HIDDEN).findobj(match=_is_text)}
    assert {"linear, 16, ReLU", "linear, 5, ReLU", "linear, 1000"} <= texts


def _is_text(artist):
    return hasattr(artist, "get_text")
