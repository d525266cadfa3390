"""The family against the installed originals: their random weights, converted; equal images, equal outputs.

What was converted goes back and loads there, bit for bit. Where no original can be installed, its definition is written
out line by line.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from inception_jax import weights
from inception_jax.models import zoo
from tests import selection
from tests.parity import fixtures, originals

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

CLASSES = 20
SIZES = ((1, 299, 299), (2, 128, 141))
SIZES_OF_BN_INCEPTION = ((1, 224, 224), (3, 192, 160))  # its branches agree on even maps only
TORCH = (  # ours, original
    ("inception_v3", "torchvision:"),
    ("inception_v3", "timm:inception_v3"),
    ("inception_v4", "timm:inception_v4"),
    ("inception_resnet_v2", "timm:inception_resnet_v2"),
    ("inception_resnet_v2", "cadene:inception_resnet_v2"),
    ("xception_timm", "timm:legacy_xception"),
    ("bn_inception", "cadene:bn_inception"),
    ("inception_v3_fid", "pytorch_fid:"),
)
SAME_AS_BEFORE = ("timm:inception_v3", "cadene:inception_resnet_v2")  # of other packages: one case will do
FIXED_POOLS = {"cadene:bn_inception": "global_pool", "cadene:inception_resnet_v2": "avgpool_1a"}
KERAS = {"inception_v3_tf": "InceptionV3", "inception_resnet_v2": "InceptionResNetV2", "xception": "Xception"}


def _images(batch, height, width):
    return np.random.default_rng(height).standard_normal((batch, height, width, 3))


def _nchw(torch, images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize(
    ("name", "original"), selection.cases(TORCH, fast=[case for case in TORCH if case[1] not in SAME_AS_BEFORE])
)
def test_torch(torch, record, tmp_path, name, original):
    classes = 1008 if name == "inception_v3_fid" else CLASSES
    theirs = originals.torch_original(torch, original, classes)
    loaded = _through_a_file(torch, theirs, name, original, tmp_path)
    if original in FIXED_POOLS:
        setattr(theirs, FIXED_POOLS[original], torch.nn.AdaptiveAvgPool2d(1))  # in place of one for a single size
    theirs.double()
    cases = []
    sizes = SIZES_OF_BN_INCEPTION if name == "bn_inception" else SIZES
    for shape in sizes[-1:] if original in SAME_AS_BEFORE else sizes:
        images = _images(*shape)
        with torch.no_grad():
            as_they_read = images[..., ::-1] if name == "bn_inception" else images  # its weights read BGR
            cases.append((images, theirs(_nchw(torch, as_they_read)).numpy()))
    _compare(record, loaded.create_model(), loaded.variables, original, lambda output: output.logits, cases)


def _through_a_file(torch, net, name, original, folder):
    """Returns the weights of a network that was saved, converted, given back, and loaded by a fresh one."""
    origin = original.partition(":")[0]
    torch.save(net.state_dict(), folder / "weights.pth")
    loaded = weights.load(folder / "weights.pth", name, origin=origin, unverified=True)
    back = {key: torch.from_numpy(tensor) for key, tensor in weights.export(loaded, origin).items()}
    fresh = originals.torch_original(torch, original, loaded.info.num_classes)
    fresh.load_state_dict(back, strict=True)
    assert all(torch.equal(tensor, net.state_dict()[key]) for key, tensor in fresh.state_dict().items())
    return loaded


def test_facenet(torch, record, tmp_path):
    """Logits of people and embeddings; also of a file without people, which its users keep for the embeddings."""
    original = "facenet_pytorch:"
    theirs = originals.torch_original(torch, original, CLASSES)
    loaded = _through_a_file(torch, theirs, "inception_resnet_v1", original, tmp_path)
    assert loaded.info.num_classes == CLASSES
    features = weights.adapt(loaded, 0)
    theirs.double()
    cases = {"logits": [], "embedding": []}
    for shape in ((2, 160, 160), (1, 299, 251)):
        images = _images(*shape)
        for name, theirs.classify in (("logits", True), ("embedding", False)):
            with torch.no_grad():
                cases[name].append((images, theirs(_nchw(torch, images)).numpy()))
    model = loaded.create_model()
    assert model.numerics.norm.scale  # this port learns gains, its TensorFlow original does not
    read = lambda output: (output.logits, output.embedding)  # noqa: E731
    for images, dtype in ((cases["logits"][0][0], "float32"), (cases["logits"][1][0], "float64")):
        with jax.enable_x64(dtype == "float64"):
            apply = jax.jit(lambda *args, dtype=dtype: read(model.clone(dtype=jnp.dtype(dtype)).apply(*args)))
            found = apply(
                jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), loaded.variables), images.astype(dtype)
            )
        inputs = "x".join(map(str, images.shape[:3])) + f" f{dtype[-2:]}"
        check = record(model.name_in_zoo, "eval", inputs)
        for name, ours in zip(cases, found, strict=True):
            expected = next(values for given, values in cases[name] if given is images)
            check(f"facenet_pytorch: {name}", ours, expected, {"float32": 1e-5, "float64": 1e-9}[dtype])
    _compare(
        record,
        features.create_model(),
        features.variables,
        "facenet_pytorch: without people",
        lambda output: output.embedding,
        cases["embedding"][:1],
    )


def test_slim_v2(torch, record):
    from tests.parity import slim_v2

    cases = []
    for shape in ((1, 224, 224), (2, 225, 130), (3, 97, 97)):
        images = _images(*shape)
        cases.append((images, slim_v2.logits(images, CLASSES)))
    model = zoo.create_model("inception_v2", CLASSES)
    filled = fixtures.fill(fixtures.shapes(model, 224), "float64")
    _compare(record, model, filled, "TF-slim, line by line", lambda output: output.logits, cases)


def _compare(record, model, variables, original, read, cases):
    """Compares all cases in float32, and the last in float64; a network of another package in float64 only."""
    single = [(*case, "float32") for case in cases if original not in SAME_AS_BEFORE]
    for images, expected, dtype in (*single, (*cases[-1], "float64")):
        with jax.enable_x64(dtype == "float64"):
            ours = model.clone(dtype=jnp.dtype(dtype))
            apply = jax.jit(lambda *args, ours=ours: read(ours.apply(*args)))
            found = apply(jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), variables), images.astype(dtype))
        inputs = "x".join(map(str, images.shape[:3])) + f" f{dtype[-2:]}"
        record(model.name_in_zoo, "eval", inputs)(original, found, expected, {"float32": 1e-4, "float64": 1e-9}[dtype])


@pytest.mark.parametrize("name", KERAS)
def test_keras(record, name):
    for batch, size in ((1, 299), (2, 128)):
        theirs = originals.keras_original(KERAS[name], size, CLASSES)
        loaded = weights.load(theirs, name)
        images = _images(batch, size, size).astype(np.float32)
        with jax.numpy_rank_promotion("allow"):
            expected = np.asarray(theirs(images, training=False))
        apply = jax.jit(loaded.create_model().apply)
        found = apply(loaded.variables, images).logits
        record(name, "eval", f"{batch}x{size}x{size} f32")(f"keras:{KERAS[name]}", found, expected, 1e-4)


def test_train_mode_of_torchvision(torch, record):
    """Logits, the head on Mixed_6e and the running statistics of one training batch, in float64."""
    name = "inception_v3"
    theirs = originals.torch_original(torch, "torchvision:", CLASSES).double().train()
    images = _images(2, 299, 299)
    model = zoo.create_model(name, CLASSES, dropout=0.0)
    variables = originals.variables_from("torchvision", model, originals.state_of(theirs))
    with torch.no_grad():
        logits, aux = theirs(_nchw(torch, images))
    with jax.enable_x64(True):
        double = model.clone(dtype=jnp.float64)
        train = lambda *args: double.apply(*args, train=True, mutable=["batch_stats"])  # noqa: E731
        output, updates = jax.jit(train)(variables, images)
    check = record(name, "train", "2x299x299 f64")
    check("logits", output.logits, logits.numpy(), 1e-9)
    check("aux Mixed_6e", output.aux["Mixed_6e"], aux.numpy(), 1e-9)
    after = originals.variables_from("torchvision", model, originals.state_of(theirs))["batch_stats"]
    ours, theirs = (traverse_util.flatten_dict(dict(tree)) for tree in (updates["batch_stats"], after))
    for leaf in ("mean", "var"):
        paths = [path for path in ours if path[-1] == leaf]
        assert len(paths) == 96
        check(f"running {leaf}", *(np.concatenate([tree[path] for path in paths]) for tree in (ours, theirs)), 1e-9)
