"""The family against the installed originals: equally filled parameters, random images, equal outputs.

Every tensor is filled by its kind and shape alone (fixtures.py), so no table of names is needed: what is compared is
the network as a function.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.models import zoo
from tests.parity import fixtures, originals

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

CLASSES = 20
SIZES = ((1, 299, 299), (2, 224, 251), (3, 128, 128))
SIZES_OF_BN_INCEPTION = ((1, 224, 224), (3, 192, 160))  # its branches agree on even maps only
TORCH = {  # ours: original
    "inception_v3": ("torchvision:", "timm:inception_v3"),
    "inception_v4": ("timm:inception_v4",),
    "inception_resnet_v2": ("timm:inception_resnet_v2",),
    "xception_timm": ("timm:legacy_xception",),
    "bn_inception": ("pretrainedmodels:",),
    "inception_v3_fid": ("pytorch_fid:",),
}
OPTIONS = {"xla_backend_optimization_level": 0}  # each is compiled to run once
KERAS = {"inception_v3_tf": "InceptionV3", "inception_resnet_v2": "InceptionResNetV2", "xception": "Xception"}


def _images(batch, height, width):
    return np.random.default_rng(height).standard_normal((batch, height, width, 3))


def _filled(model):
    return fixtures.fill(fixtures.shapes(model, 299 if model.name_in_zoo != "bn_inception" else 224), "float64")


def _nchw(torch, images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize(("name", "original"), [(name, original) for name in TORCH for original in TORCH[name]])
def test_torch(torch, record, name, original):
    classes = 1008 if name == "inception_v3_fid" else CLASSES
    theirs = originals.torch_original(torch, original, classes)
    if name == "bn_inception":
        theirs.global_pool = torch.nn.AdaptiveAvgPool2d(1)  # in place of a fixed 7x7
    model = zoo.create_model(name, classes)
    cases = []
    for shape in SIZES_OF_BN_INCEPTION if name == "bn_inception" else SIZES:
        images = _images(*shape)
        with torch.no_grad():
            cases.append((images, theirs(_nchw(torch, images)).numpy()))
    _compare(record, model, original, lambda output: output.logits, cases)


def test_body_of_facenet(torch, record):
    theirs = originals.torch_original(torch, "facenet:", CLASSES)
    cases = []
    for shape in ((2, 160, 160), (1, 299, 251)):
        images = _images(*shape)
        with torch.no_grad(), originals.inputs_of(theirs.avgpool_1a) as seen:
            theirs(_nchw(torch, images))
        cases.append((images, seen[0].transpose(0, 2, 3, 1)))
    # This network learns gains, that of its TensorFlow original does not.
    model = zoo.create_model("inception_resnet_v1")
    model = model.clone(numerics=_with_gains(model.numerics))
    _compare(record, model, "facenet: body", lambda output: output.endpoints["Block8"], cases)


def test_slim_v2(torch, record):
    from tests.parity import slim_v2

    cases = []
    for shape in ((1, 224, 224), (2, 225, 130), (3, 97, 97)):
        images = _images(*shape)
        cases.append((images, slim_v2.logits(images, CLASSES)))
    model = zoo.create_model("inception_v2", CLASSES)
    _compare(record, model, "TF-slim, line by line", lambda output: output.logits, cases)


def _with_gains(numerics, scale=True):
    return numerics._replace(norm=numerics.norm._replace(scale=scale))


def _compare(record, model, original, read, cases):
    """Compares all cases in float32, and the first in float64."""
    double = _filled(model)
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), double)
    for images, expected, dtype in (*((*case, "float32") for case in cases), (*cases[0], "float64")):
        with jax.enable_x64(dtype == "float64"):
            ours = model.clone(dtype=jnp.dtype(dtype))
            variables = double if dtype == "float64" else single
            apply = jax.jit(lambda *args, ours=ours: read(ours.apply(*args)), compiler_options=OPTIONS)
            found = apply(variables, images.astype(dtype))
        inputs = "x".join(map(str, images.shape[:3])) + f" f{dtype[-2:]}"
        record(model.name_in_zoo, "eval", inputs)(original, found, expected, {"float32": 1e-4, "float64": 1e-9}[dtype])


@pytest.mark.parametrize("name", KERAS)
def test_keras(record, name):
    """Keras learns no gains in two of its networks."""
    for batch, size in ((1, 299), (3, 150)):
        theirs = originals.keras_original(KERAS[name], size, CLASSES)
        images = _images(batch, size, size).astype(np.float32)
        with jax.numpy_rank_promotion("allow"):
            expected = np.asarray(theirs(images, training=False))
        model = zoo.create_model(name, CLASSES)
        model = model.clone(numerics=_with_gains(model.numerics, scale=name == "xception"))
        variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), _filled(model))
        found = jax.jit(model.apply, compiler_options=OPTIONS)(variables, images).logits
        record(name, "eval", f"{batch}x{size}x{size} f32")(f"keras:{KERAS[name]}", found, expected, 1e-4)


def test_train_mode_of_torchvision(torch, record):
    """Logits, the head on Mixed_6e and the running statistics of one training batch, in float64."""
    name = "inception_v3"
    theirs = originals.torch_original(torch, "torchvision:", CLASSES).train()
    images = _images(2, 299, 299)
    with torch.no_grad():
        logits, aux = theirs(_nchw(torch, images))
    model = zoo.create_model(name, CLASSES, dropout=0.0, dtype=jnp.float64)
    with jax.enable_x64(True):
        train = lambda *args: model.apply(*args, train=True, mutable=["batch_stats"])  # noqa: E731
        output, updates = jax.jit(train, compiler_options=OPTIONS)(_filled(model), images)
    check = record(name, "train", "2x299x299 f64")
    check("logits", output.logits, logits.numpy(), 1e-9)
    check("aux Mixed_6e", output.aux["Mixed_6e"], aux.numpy(), 1e-9)
    for leaf in ("mean", "var"):
        ours = [v for path, v in jax.tree.leaves_with_path(updates["batch_stats"]) if path[-1].key == leaf]
        state = [v.numpy() for key, v in theirs.state_dict().items() if key.endswith(f"running_{leaf}")]
        assert len(ours) == len(state) == 96
        # By size, as the two name and order their layers differently.
        check(f"running {leaf}", np.sort(np.concatenate(ours)), np.sort(np.concatenate(state)), 1e-9)
