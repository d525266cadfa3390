"""Fine-tuning: what is frozen stays as it is, bit for bit; what is loaded is what the source holds."""

import dataclasses
import functools
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from inception_jax import weights
from inception_jax.errors import UserError
from inception_jax.models import spec, zoo
from inception_jax.models.zoo import create_model
from inception_jax.parallel import mesh
from inception_jax.training import finetune, prepare, train_and_evaluate
from inception_jax.training.checkpoints import Checkpoints, host_checksum
from inception_jax.training.compilation import CompilationLog
from inception_jax.training.config import OptimizerConfig, TrainConfig, changes_that_forbid_resuming
from inception_jax.training.optimizers import frozen_parameters, make_optimizer
from inception_jax.training.saved import read_variables
from inception_jax.training.step import update_ema

BLOCK = ((spec.Conv(16),), (spec.Pool("max"), spec.Conv(16)))
SHORT = dataclasses.replace(  # compiles in seconds; its head is on a row that is frozen
    zoo.model_card("googlenet_cifar"),
    name="short",
    table={"conv1": spec.Conv(16, (3, 3)), "pool3": spec.Pool("max", 3, 2), "4a": BLOCK, "5b": BLOCK},
    aux_heads={"4a": spec.AuxHead(rows=(spec.Pool("avg", 5, 3, spec.VALID), spec.Conv(16)), hidden=16)},
)
HEADS = {"aux_4a", "classifier"}
FAST = {"xla_backend_optimization_level": 0}


def flat(tree) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(dict(tree), sep="/").items()}


def bits(tree) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in flat(tree).items()}


def backbone(tree) -> dict[str, bytes]:
    """Returns the bits of the arrays of the rows of the table, among params or batch_stats."""
    return {name: value for name, value in bits(tree).items() if name.split("/")[0] not in HEADS}


def random_like(shapes, seed: int):
    """Returns arrays that no initialiser draws, a zero with a sign among them."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "var":
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        array = rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        array.flat[0] = -0.0
        return array

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module", autouse=True)
def short_network():
    """Puts a short network into the zoo."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(zoo.MODELS, "short", SHORT)
        yield


@pytest.fixture(scope="module")
def short(tiny):
    """Returns `tiny` for the short network."""

    def make(**changes):
        changes["model"] = {"name": "short"} | changes.get("model", {})
        return tiny(loss={"aux_weights": {"aux_4a": 0.3}}, **changes)

    return make


@pytest.fixture(scope="module")
def source(short, tmp_path_factory):
    """Returns the workdir of a run with checkpoints of steps 1, 2 and 3; the second is the best."""
    workdir = tmp_path_factory.mktemp("source")
    config = short()
    state = prepare(config, workdir).abstract_state
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    with Checkpoints(workdir / "checkpoints", 3, "eval_ema/top1") as checkpoints:
        for step, top1 in ((1, 0.1), (2, 0.9), (3, 0.2)):
            values = zeros.replace(
                step=np.array(step, np.int32),
                params=random_like(state.params, step),
                batch_stats=random_like(state.batch_stats, step),
                ema=random_like(state.ema, 10 + step),
            )
            checkpoints.save(
                jax.device_put(values, jax.devices()[0]), config, {"eval_ema/top1": top1, "eval/top1": 0.5}
            )
    return workdir


@pytest.fixture
def copied(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copied")


# The model.


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("backbon", "freeze is 'backbon'; it must be none, backbone or up_to:ENDPOINT"),
        ("up_to:", "the model has no endpoint ''. Nearest: none. All: conv1, "),
        ("up_to:4f", "freeze is 'up_to:4f'; the model has no endpoint '4f'. Nearest: 4e, 4d, 4c. All: conv1, "),
    ],
)
def test_what_cannot_be_frozen_is_named(freeze, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        create_model("googlenet_cifar", freeze=freeze)


def test_names_of_frozen_rows():
    assert create_model("googlenet_cifar").frozen_rows() == ()
    model = create_model("googlenet_cifar", freeze="up_to:3a")
    assert model.frozen_rows() == ("conv1", "3a")
    assert model.frozen_modules() == {"conv1", "inception_3a"}
    for name in ("googlenet", "inception_v3", "inception_resnet_v2", "xception"):
        model = create_model(name, freeze="backbone")
        assert model.frozen_rows() == tuple(model.table)


@functools.cache
def frozen_model(freeze):
    model = create_model("short", 10, width=0.05, dropout=0.0, freeze=freeze)
    variables = random_like(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 12, 12, 3)))), 0)
    images = np.random.default_rng(1).normal(size=(8, 12, 12, 3)).astype(np.float32)

    def train(params, batch_stats, images):
        rngs = {"dropout": jax.random.key(0)}
        output, updated = model.apply(
            {"params": params, "batch_stats": batch_stats}, images, True, rngs=rngs, mutable=["batch_stats"]
        )
        logits = [output.logits, *output.aux.values()]
        return sum(jnp.square(each).sum() for each in logits), (output.logits, updated["batch_stats"])

    step = jax.jit(jax.value_and_grad(train, has_aux=True), compiler_options=FAST)
    return model, variables, images, step


@pytest.mark.parametrize("freeze", ["backbone", "up_to:4a"])
def test_frozen_rows_have_no_gradient_and_keep_their_statistics(freeze):
    model, variables, images, step = frozen_model(freeze)
    (_, (logits, batch_stats)), grads = step(variables["params"], variables["batch_stats"], images)
    frozen = model.frozen_modules()
    assert {"conv1", "inception_4a"} <= frozen
    assert ("inception_5b" in frozen) == (freeze == "backbone")
    before, after = bits(variables["batch_stats"]), bits(batch_stats)
    assert {name.split("/")[0] for name in before if before[name] == after[name]} == frozen & {*batch_stats}
    for name, grad in flat(grads).items():
        assert grad.any() != (name.split("/")[0] in frozen), name
    if freeze == "backbone":
        evaluate = jax.jit(lambda variables, images: model.apply(variables, images).logits, compiler_options=FAST)
        assert bits({"logits": evaluate(variables, images)}) == bits({"logits": logits})


def test_nothing_is_computed_backwards_through_frozen_rows():
    flops = {}
    for freeze in ("none", "up_to:4a", "backbone"):
        _, variables, images, step = frozen_model(freeze)
        lowered = step.lower(variables["params"], variables["batch_stats"], images)
        flops[freeze] = lowered.cost_analysis()["flops"]
    assert flops["backbone"] < 0.5 * flops["none"], flops
    assert flops["backbone"] < flops["up_to:4a"] < flops["none"], flops


# The optimizer and the average.


def optimizer(name, frozen=None, **changes):
    values = {
        "name": name, "learning_rate": 0.1, "momentum": 0.9, "nesterov": False, "decay": 0.9, "epsilon": None,
        "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.1, "clip_norm": 1.0,
    }  # fmt: skip
    return make_optimizer(OptimizerConfig(**values | changes), optax.constant_schedule(0.1), frozen)


PARAMS = {
    "conv1": {"kernel": jnp.array([1.0, -0.0, 3.0])},
    "conv2": {"kernel": jnp.array([[1.0, 2.0]]), "bn": {"scale": jnp.ones(7), "bias": jnp.array([-0.5])}},
}
FROZEN = frozen_parameters({"conv1"}, {"conv2/bn/scale"})


@pytest.mark.parametrize("name", ["sgd", "rmsprop_tf", "adamw", "lars"])
def test_frozen_parameters_stay_have_no_state_and_do_not_count(name):
    """The rest is updated as if the frozen ones were not there: neither decay nor the clipped norm sees them."""
    rest = {"conv2": {"kernel": PARAMS["conv2"]["kernel"], "bn": {"bias": PARAMS["conv2"]["bn"]["bias"]}}}
    tx, alone = optimizer(name, FROZEN), optimizer(name)
    params, state, rest_state = PARAMS, tx.init(PARAMS), alone.init(rest)
    arrays = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert arrays == [leaf.shape for leaf in jax.tree.leaves(rest_state)]
    assert (3,) not in arrays
    assert (7,) not in arrays
    for _ in range(2):
        updates, state = tx.update(jax.tree.map(lambda leaf: leaf + 50, params), state, params)
        rest_updates, rest_state = alone.update(jax.tree.map(lambda leaf: leaf + 50, rest), rest_state, rest)
        params, rest = optax.apply_updates(params, updates), optax.apply_updates(rest, rest_updates)
    np.testing.assert_array_equal(params["conv1"]["kernel"], PARAMS["conv1"]["kernel"])
    np.testing.assert_array_equal(params["conv2"]["bn"]["scale"], 1.0)
    chex.assert_trees_all_equal(params["conv2"]["kernel"], rest["conv2"]["kernel"])
    chex.assert_trees_all_equal(params["conv2"]["bn"]["bias"], rest["conv2"]["bn"]["bias"])
    assert (params["conv2"]["kernel"] != PARAMS["conv2"]["kernel"]).all()


def test_with_nothing_frozen_the_optimizer_is_the_plain_one():
    assert frozen_parameters(frozenset(), ()) is None
    params = {"kernel": jnp.ones(3)}
    state = optimizer("sgd", weight_decay=0.0, clip_norm=None).init(params)
    plain = optax.chain(optax.identity(), optax.chain(optax.add_decayed_weights(0.0, lambda _: {"kernel": True}),
                        optax.sgd(optax.constant_schedule(0.1), 0.9)))  # fmt: skip
    assert jax.tree.structure(state) == jax.tree.structure(plain.init(params))


def test_the_average_of_what_does_not_change_is_that():
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    values[:2] = 0.0, -0.0
    step = jax.jit(functools.partial(update_ema, decay=0.999), compiler_options=FAST)
    for count in (1, 2, 7, 100_000):
        assert bits({"mean": step(values, values, jnp.array(count))}) == bits({"mean": values})


# Variables of a run.


def test_the_best_checkpoint_is_read_and_its_average(source, short):
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    with CompilationLog() as log:
        saved = read_variables(source)
    assert log.compilations == []
    assert (saved.step, saved.averaged, saved.config) == (2, True, short())
    shapes = prepare(short(), source).abstract_state
    assert bits(saved.variables) == bits(random_like(shapes.ema, 12))
    plain = read_variables(source, average=False, step=3)
    assert (plain.step, plain.averaged) == (3, False)
    assert bits(plain.variables["params"]) == bits(random_like(shapes.params, 3))
    assert bits(plain.variables["batch_stats"]) == bits(random_like(shapes.batch_stats, 3))
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before, "the folder is left alone"


def test_without_an_evaluation_the_last_is_read(copied):
    for step in (1, 2, 3):
        (copied / "checkpoints" / str(step) / "metrics" / "metrics").write_text('{"eval_ema/top1": -Infinity}')
    assert read_variables(copied).step == 3


def edit_meta(workdir, **changes):
    path = workdir / "checkpoints" / "2" / "meta" / "metadata"
    meta = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(meta))
    return meta


def test_checkpoints_that_cannot_be_read_are_named(copied, tmp_path):
    with pytest.raises(UserError, match="holds no complete checkpoint of a run"):
        read_variables(tmp_path)
    with pytest.raises(UserError, match="no checkpoint of step 7; it has 1, 2, 3"):
        read_variables(copied, step=7)
    meta = edit_meta(copied)
    edit_meta(copied, format_version=99)
    with pytest.raises(UserError, match=r"checkpoints/2 has format 99; this version reads 1"):
        read_variables(copied)
    edit_meta(copied, **meta)
    edit_meta(copied, checksums={name: value for name, value in meta["checksums"].items() if name[:4] != "ema/"})
    with pytest.raises(UserError, match=r"kept no average of its parameters .*average=False"):
        read_variables(copied, average=True)
    assert not read_variables(copied).averaged
    edit_meta(copied, **meta)
    largest = max((copied / "checkpoints/2/state").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[::16] = bytes(byte ^ 0xFF for byte in content[::16])  # in every array: their order in it is not fixed
    largest.write_bytes(content)
    for average in (True, False):
        with pytest.raises(UserError, match=r"checkpoints/2 is damaged \(.*\)\. Other steps: \[1, 3\]\.$"):
            read_variables(copied, average=average)
    (copied / "checkpoints/2/meta/metadata").write_text("[]")
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged \(its record lacks"):
        read_variables(copied)


def test_a_checksum_on_the_host_sees_one_flipped_bit():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    other = array.copy()
    other[1, 2] = np.nextafter(other[1, 2], np.float32(99))
    assert host_checksum(array) != host_checksum(other)
    assert host_checksum(array) == host_checksum(np.asfortranarray(array))


def test_checkpoints_from_before_the_section_finetune_still_fit(copied, short):
    old = short().model_dump(mode="json")
    del old["finetune"]
    assert TrainConfig.parse_saved(old) == short()
    assert changes_that_forbid_resuming(old, short()) == {}
    begun = short(finetune={"weights": "there", "freeze": "backbone"})
    assert changes_that_forbid_resuming(old, begun) == {
        "finetune.weights": (None, "there"),
        "finetune.freeze": ("none", "backbone"),
    }
    edit_meta(copied, config=old)
    assert read_variables(copied).config == short()


# Heads.


AUX_CLASSIFIER = {f"params/aux_4a/classifier/linear/{leaf}" for leaf in ("kernel", "bias")}
CLASSIFIER = {f"params/classifier/linear/{leaf}" for leaf in ("kernel", "bias")}
HIDDEN = {f"params/aux_4a/{name}" for name in ("hidden/kernel", "hidden/bias", "rows_1/conv/kernel")} | {
    f"params/aux_4a/rows_1/bn/{leaf}" for leaf in ("scale", "bias")
}
HIDDEN |= {f"batch_stats/aux_4a/rows_1/bn/{leaf}" for leaf in ("mean", "var")}


@pytest.mark.parametrize(
    ("changes", "drawn", "dropped"),
    [
        ({}, set(), set()),
        ({"reset_head": True}, CLASSIFIER | AUX_CLASSIFIER, set()),
        ({"num_classes": 7, "aux": False}, CLASSIFIER, HIDDEN | AUX_CLASSIFIER),
        ({"image_size": 32}, HIDDEN | AUX_CLASSIFIER, set()),  # it flattens a larger map
    ],
)
def test_heads_that_do_not_fit_are_drawn(source, changes, drawn, dropped):
    filled = ("inception_5b/branch1_0/bn/scale", "aux_4a/rows_1/bn/scale")
    run = finetune.run_weights(source)
    given = dataclasses.replace(run, info=dataclasses.replace(run.info, filled=filled))
    adapted = weights.adapt(given, seed=3, **changes)
    assert set(adapted.report.reinitialised) == drawn
    assert set(adapted.report.dropped) == dropped
    assert adapted.info.num_classes == changes.get("num_classes", 10)
    assert adapted.info.filled == (filled[:1] if HIDDEN & (drawn | dropped) else filled)
    size = changes.get("image_size", 12)
    fresh = jax.eval_shape(lambda: adapted.create_model().init(jax.random.key(3), jnp.zeros((1, size, size, 3))))
    assert jax.tree.map(np.shape, adapted.variables) == jax.tree.map(np.shape, dict(fresh))
    before, after = bits(given.variables), bits(adapted.variables)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed | {f"batch_stats/aux_4a/rows_1/bn/{leaf}" for leaf in ("mean", "var")} & drawn == drawn
    if drawn >= CLASSIFIER:
        linear = adapted.variables["params"]["classifier"]["linear"]
        assert not linear["bias"].any()
        assert 0.005 < linear["kernel"].std() < 0.02, "as its Init draws it"


# Runs.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finetune": {"freeze": "backbone"}}, "freeze is 'backbone' and config.finetune.weights is None: rows drawn"),
        ({"finetune": {"weights": "SOURCE", "freeze": "up_to:4z"}}, r"config\.finetune: freeze is .* Nearest: 4a"),
        ({"finetune": {"weights": "SOURCE"}, "model": {"width": 0.25}}, r"config\.model\.width is 0\.25; .* is 0\.05"),
        (
            {"finetune": {"weights": "SOURCE"}, "model": {"name": "googlenet_bn"}, "data": {"image_size": 96}},
            r"config\.model\.name is 'googlenet_bn'; .* is 'short'",
        ),
    ],
)
def test_pre_flight_refuses(short, source, tmp_path, changes, message):
    changes["finetune"] = {k: str(source) if v == "SOURCE" else v for k, v in changes["finetune"].items()}
    with CompilationLog() as log, pytest.raises(UserError, match=message):
        prepare(short(**changes), tmp_path)
    assert log.compilations == []


def test_loaded_state_is_sharded_from_birth(short, source, tmp_path, monkeypatch):
    monkeypatch.setattr(mesh, "SMALLEST_SHARDED", 256)
    experiment = prepare(short(mesh={"fsdp": 4}, finetune={"weights": str(source)}), tmp_path)
    state = experiment.init_state()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, experiment.abstract_state)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == shardings
    assert not all(sharding.is_fully_replicated for sharding in jax.tree.leaves(shardings))
    variables = read_variables(source).variables
    assert bits(state.variables) == bits(state.ema) == bits(variables)
    assert int(state.step) == 0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(state.opt_state))


def test_preprocessing_and_numerics_are_those_of_the_weights(short, source, tmp_path, monkeypatch):
    given = finetune.run_weights(source)
    numerics = given.info.numerics._replace(count_padding=False)
    preprocess = zoo.Preprocess(299, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), interpolation="bicubic")
    filled = ("conv1/bn/scale", "aux_4a/rows_1/bn/scale")
    info = dataclasses.replace(given.info, numerics=numerics, preprocess=preprocess, filled=filled)

    def load(file, name, unverified):
        assert (file, name, unverified) == ("a.safetensors", "short", True)
        return weights.Weights(info, given.variables, given.report)

    monkeypatch.setattr(weights, "load", load)
    larger = {"image_size": 32}  # the head flattens a larger map, and is drawn
    config = short(finetune={"weights": "a.safetensors", "unverified": True}, data=larger)
    experiment = prepare(config, tmp_path)
    assert experiment.model.numerics == numerics
    assert experiment.preprocess == dataclasses.replace(preprocess, size=32)
    state = {jax.tree_util.keystr(path, simple=True, separator="/")
             for path, _ in jax.tree_util.tree_leaves_with_path(experiment.abstract_state.opt_state)}  # fmt: skip
    assert not any(name.endswith("conv1/bn/scale") for name in state), "what its source lacks does not train"
    assert any(name.endswith("aux_4a/rows_1/bn/scale") for name in state), "unless it is drawn"
    finetune.write_record(tmp_path, experiment.weights)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    again = prepare(config, tmp_path)
    assert again.weights is None, "the checkpoint holds them"
    assert (again.model, again.preprocess) == (experiment.model, experiment.preprocess)
    assert jax.tree.structure(again.abstract_state) == jax.tree.structure(experiment.abstract_state)
    (tmp_path / finetune.RECORD).write_text("{}")
    with pytest.raises(UserError, match=r"finetune\.json, which says what weights .* is missing or damaged"):
        prepare(config, tmp_path)


@pytest.fixture(scope="module")
def frozen_run(short, source, tmp_path_factory):
    """Returns (config, workdir, state, log of compilations) of a run of 4 steps on the frozen rows of the source."""
    config = short(
        duration="4 steps",
        eval_every="4 steps",
        finetune={"weights": str(source), "freeze": "backbone", "reset_head": True},
    )
    workdir = tmp_path_factory.mktemp("frozen")
    with CompilationLog() as log:
        state = train_and_evaluate(config, workdir)
    return config, workdir, state, log


def test_a_frozen_run_trains_its_heads_alone(frozen_run, source):
    _, workdir, state, _ = frozen_run
    given = read_variables(source).variables
    for variables in (state.variables, state.ema):
        for collection in ("params", "batch_stats"):
            assert backbone(variables[collection]) == backbone(given[collection])
    for head in HEADS:
        assert bits(state.params[head]) != bits(given["params"][head])
    fresh = weights.adapt(finetune.run_weights(source), reset_head=True)
    for name, array in flat(fresh.variables["params"]).items():
        if name.split("/")[0] in HEADS and name.endswith("kernel"):
            assert (array != flat(state.params)[name]).any(), name
    held = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert held == sum(leaf.size for head in HEADS for leaf in jax.tree.leaves(state.params[head]))
    record = json.loads((workdir / finetune.RECORD).read_text())
    assert record["report"][1] == f"from the run {source}, step 2, averaged"
    assert record["report"][2].startswith("re-initialised 4: params/aux_4a/classifier/linear/bias, ")


def test_a_frozen_run_compiles_no_more(frozen_run):
    compilations = frozen_run[3].compilations
    for name in ("train_step", "eval_step", "create_state"):
        assert sum(name in each for each in compilations) == 1, compilations


def test_a_frozen_run_resumes_bit_for_bit_without_its_source(frozen_run, short, source, tmp_path, capsys, monkeypatch):
    config, _, state, _ = frozen_run
    values = config.model_dump()
    train_and_evaluate(TrainConfig.parse(values | {"duration": "2 steps"}), tmp_path)
    assert "re-initialised 4: params/aux_4a/classifier" in capsys.readouterr().out
    hidden = source.rename(source.with_name("hidden"))
    try:
        resumed = train_and_evaluate(config, tmp_path)
    finally:
        hidden.rename(source)
    assert "re-initialised" not in capsys.readouterr().out
    for ours, theirs in zip(jax.tree.leaves(resumed), jax.tree.leaves(state), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
    other = values | {"finetune": values["finetune"] | {"freeze": "none"}}
    with pytest.raises(UserError, match=r"config\.finetune\.freeze: 'backbone' then, 'none' now"):
        train_and_evaluate(TrainConfig.parse(other), tmp_path)


def test_a_run_from_a_run_from_weights_reads_its_record(frozen_run, tmp_path):
    _, workdir, state, _ = frozen_run
    given = finetune.run_weights(workdir)
    assert given.info.source == f"the run {workdir}, step 4, averaged"
    assert bits(given.variables) == bits(state.ema)
    assert given.info.numerics == SHORT.numerics
    moved = shutil.copytree(workdir, tmp_path / "moved", ignore=shutil.ignore_patterns(finetune.RECORD))
    with pytest.raises(UserError, match=r"finetune\.json, which says"):
        finetune.run_weights(moved)
