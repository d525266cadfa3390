"""Fine-tuning: what is loaded is what the source holds, heads that do not fit are drawn, frozen rows stay."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax import weights
from inception_jax.errors import UserError
from inception_jax.models import zoo
from inception_jax.parallel import mesh
from inception_jax.training import prepare, provenance, saved, train_and_evaluate
from inception_jax.training.compilation import CompilationLog
from inception_jax.training.config import TrainConfig
from inception_jax.training.saved import read_variables
from tests.short import SHORT
from tests.training.trees import bits, flat

HEADS = {"aux_4a", "classifier"}


def backbone(tree) -> dict[str, bytes]:
    """Returns the bits of the arrays of the rows of the table, among params or batch_stats."""
    return {name: value for name, value in bits(tree).items() if name.split("/")[0] not in HEADS}


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
    run = saved.run_weights(source)
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
def test_checks_refuse(short, source, tmp_path, changes, message):
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
    given = saved.run_weights(source)
    numerics = given.info.numerics._replace(count_padding=False)
    preprocess = zoo.Preprocess(299, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), interpolation="bicubic")
    filled = ("conv1/bn/scale", "aux_4a/rows_1/bn/scale")
    info = dataclasses.replace(given.info, numerics=numerics, preprocess=preprocess, filled=filled)

    def load(file, name, *, unverified, key, reset_head):
        assert (file, name, unverified, key, reset_head) == ("a.safetensors", "short", True, None, False)
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
    provenance.write_record(tmp_path, experiment.weights)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    again = prepare(config, tmp_path)
    assert again.weights is None, "the checkpoint holds them"
    assert (again.model, again.preprocess) == (experiment.model, experiment.preprocess)
    assert jax.tree.structure(again.abstract_state) == jax.tree.structure(experiment.abstract_state)
    (tmp_path / provenance.RECORD).write_text("{}")
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
    fresh = weights.adapt(saved.run_weights(source), reset_head=True)
    for name, array in flat(fresh.variables["params"]).items():
        if name.split("/")[0] in HEADS and name.endswith("kernel"):
            assert (array != flat(state.params)[name]).any(), name
    held = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert held == sum(leaf.size for head in HEADS for leaf in jax.tree.leaves(state.params[head]))
    record = json.loads((workdir / provenance.RECORD).read_text())
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
    given = saved.run_weights(workdir)
    assert given.info.source == f"the run {workdir}, step 4, averaged"
    assert bits(given.variables) == bits(state.ema)
    assert given.info.numerics == SHORT.numerics


@pytest.mark.parametrize("damage", ["lost", "flipped"])
def test_a_damaged_record_of_the_start_is_read_from_a_checkpoint(frozen_run, tmp_path, damage, caplog):
    workdir = frozen_run[1]
    moved = shutil.copytree(workdir, tmp_path / "moved")
    path = moved / provenance.RECORD
    text = path.read_text()
    path.unlink()
    if damage == "flipped":
        path.write_text(text.replace('"size": 12', '"size": 13'))
        assert path.read_text() != text
    assert saved.run_weights(moved).info.preprocess == saved.run_weights(workdir).info.preprocess
    assert "finetune.json is missing or damaged; a checkpoint says the same" in caplog.text
