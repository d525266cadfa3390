"""Our `googlenet_torchvision` against the installed torchvision: same random weights, same images, same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from inception_jax.models import zoo
from tests.parity import originals
from tests.selection import cases
from tests.weights import synthetic

pytestmark = pytest.mark.parity

NAME = "googlenet_torchvision"
CLASSES = 10
AUX_ORDER = ("4d", "4a")  # torchvision returns (logits, aux2, aux1)
GRADIENTS = (
    ("conv1", "conv", "kernel"),
    ("inception_4b", "branch3_1", "conv", "kernel"),
    ("inception_5b", "branch2_0", "bn", "scale"),
    ("aux_4a", "hidden", "kernel"),
    ("aux_4d", "rows_1", "conv", "kernel"),
    ("classifier", "linear", "bias"),
)


@pytest.fixture
def theirs(torch):
    """GoogLeNet of torchvision with aux heads, no dropout, and weights under which no signal fades."""
    return originals.torch_original(torch, "torchvision:googlenet", CLASSES)


@pytest.fixture(scope="module")
def ours():
    model = zoo.create_model(NAME, CLASSES, dropout=0.0)
    return model.clone(aux_heads={tap: head._replace(dropout=0.0) for tap, head in model.aux_heads.items()})


def _variables(model, net):
    return originals.variables_from("torchvision", model, originals.state_of(net))


def _images(batch, height, width):
    return np.random.default_rng(height).standard_normal((batch, height, width, 3)).astype(np.float32)


def _nchw(torch, images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize(
    ("batch", "height", "width"), [(2, 224, 224), (1, 225, 225), (3, 97, 97), (2, 130, 97), (4, 15, 15)]
)
def test_eval_logits(torch, theirs, ours, record, batch, height, width):
    images = _images(batch, height, width)
    logits = jax.jit(ours.apply)(_variables(ours, theirs), images).logits
    with torch.no_grad():
        expected = theirs.eval()(_nchw(torch, images)).numpy()
    record(NAME, "eval", f"{batch}x{height}x{width} f32")("logits", logits, expected, 1e-4)


def _train_mode(torch, net, images):
    """Returns torchvision's outputs (logits, aux2, aux1) on a training batch, graph attached."""
    return net.train()(_nchw(torch, images))


def _apply_train(model, variables, images):
    output, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    return (output.logits, *(output.aux[tap] for tap in AUX_ORDER)), updates["batch_stats"]


def _check_train(check, ours, theirs, tolerance):
    for what, logits, expected in zip(("logits", *(f"aux {tap}" for tap in AUX_ORDER)), ours, theirs, strict=True):
        check(what, logits, expected.detach().numpy(), tolerance)


def _check_statistics(check, ours, theirs, tolerance):
    ours, theirs = (traverse_util.flatten_dict(dict(tree)) for tree in (ours, theirs))
    for leaf in ("mean", "var"):
        paths = [path for path in ours if path[-1] == leaf]
        arrays = (np.concatenate([tree[path] for path in paths]) for tree in (ours, theirs))
        check(f"running {leaf}", *arrays, tolerance)


@pytest.mark.parametrize(("batch", "size"), [(4, 224), (3, 225), (6, 97)])
def test_train_outputs_and_running_statistics(torch, theirs, ours, record, batch, size):
    images = _images(batch, size, size)
    outputs, statistics = jax.jit(_apply_train, static_argnums=0)(ours, _variables(ours, theirs), images)
    with torch.no_grad():
        expected = _train_mode(torch, theirs, images)
    check = record(NAME, "train", f"{batch}x{size}x{size} f32")
    _check_train(check, outputs, expected, 1e-4)
    _check_statistics(check, statistics, _variables(ours, theirs)["batch_stats"], 1e-4)


@pytest.mark.parametrize(("batch", "size"), cases([(2, 225), (4, 97)], fast=[(4, 97)]))
def test_gradients(torch, theirs, ours, record, batch, size):
    """In float64: in float32 rounding moves the winners of the max pools, and with them whole gradients."""
    theirs.double()
    images = _images(batch, size, size).astype(np.float64)
    cotangents = np.random.default_rng(1).standard_normal((3, batch, CLASSES))
    with jax.enable_x64(True):
        model = ours.clone(dtype=jnp.float64)
        variables = _variables(ours, theirs)

        def loss_fn(params):
            outputs, statistics = _apply_train(model, variables | {"params": params}, images)
            return sum(jnp.vdot(*pair) for pair in zip(outputs, cotangents, strict=True)), (outputs, statistics)

        gradients, (outputs, statistics) = jax.jit(jax.grad(loss_fn, has_aux=True))(variables["params"])
    expected = _train_mode(torch, theirs, images)
    sum((logits * torch.from_numpy(c)).sum() for logits, c in zip(expected, cotangents, strict=True)).backward()

    check = record(NAME, "train", f"{batch}x{size}x{size} f64")
    _check_train(check, outputs, expected, 1e-9)
    _check_statistics(check, statistics, _variables(ours, theirs)["batch_stats"], 1e-9)
    parameters = dict(theirs.named_parameters())
    slots = {slot.path: slot for slot in synthetic.lineage("torchvision", NAME).slots(ours)}
    gradients = traverse_util.flatten_dict({"params": gradients})
    for path in (("params", *path) for path in GRADIENTS):
        gradient = parameters[slots[path].name].grad.numpy()
        check("d " + "/".join(path[1:]), gradients[path], slots[path].to_ours(gradient), 1e-9)
