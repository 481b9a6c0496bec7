"""Every optimiser of Optax trains through the truncated step: a table that reads Optax's own names."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from experiments.harness.fit import first_state, make_optimizer
from experiments.harness.settings import TrainingSettings
from experiments.harness.task import Task, train_step
from experiments.harness.text_streams import first_carry, stream_loss
from jaxrnn import GRU
from jaxrnn.models.language_model import LanguageModel
from jaxrnn.training.state import init_state
from jaxrnn.training.step import truncated_step

SGD = optax.sgd(0.1)
MATRICES = {"w": optax.contrib.MuonDimensionNumbers(), "b": optax.MaskedNode()}

# What a transformation is called with where its argument has no default, by the argument's name.
ARGUMENTS = {
    "learning_rate": 0.1,
    **dict.fromkeys(["base_optimizer", "fast_optimizer", "optimizer", "adv_optimizer", "inner", "tx"], SGD),
    **dict.fromkeys(["clipping", "max_delta", "threshold", "max_norm", "eta", "gamma", "decay"], 0.5),
    **dict.fromkeys(["slow_step_size", "l2_norm_clip", "noise_multiplier"], 0.5),
    **dict.fromkeys(["max_consecutive_errors", "sync_period", "seed"], 1),
    **dict.fromkeys(["max_backtracking_steps", "max_linesearch_steps"], 5),
    "step_size": -0.1,
    "step_size_fn": lambda count: -0.1,
    "should_transform_fn": lambda count, **_: count >= 0,
    "mask": {"w": True, "b": False},
    "measure": optax.tree.norm,
    "measure_name": "norm",
    "measures": {"norm": optax.snapshot("norm", optax.tree.norm)},
}
# What is not called like that.
CALLS = {
    "add_noise": lambda f: f(0.5, 0.5, key=0),
    "chain": lambda f: f(optax.clip(1.0), SGD),
    "named_chain": lambda f: f(("clip", optax.clip(1.0)), ("sgd", SGD)),
    "inject_hyperparams": lambda f: f(optax.adam)(learning_rate=0.1),
    "inject_stateful_hyperparams": lambda f: f(optax.adam)(learning_rate=0.1),
    "multi_transform": lambda f: f({"a": SGD, "b": optax.adam(0.1)}, {"w": "a", "b": "b"}),
    "noisy_sgd": lambda f: f(0.1, key=0),
    "partition": lambda f: f({"a": SGD, "b": optax.adam(0.1)}, {"w": "a", "b": "b"}),
    "scale_by_muon": lambda f: optax.masked(f(weight_dimension_numbers=MATRICES), {"w": True, "b": False}),
    "selective_transform": lambda f: f(SGD, freeze_mask={"w": True, "b": False}),
    "stateless": lambda f: f(lambda updates, params: updates),
    "stateless_with_tree_map": lambda f: f(lambda update, param: update),
}
# Transformations whose signature does not say so.
UNANNOTATED = {"dog", "dowg", "monitor", "scale_by_factored_rms"}
HELPERS = {
    *("bias_correction", "matrix_inverse_pth_root", "schedule_free_eval_params"),
    *(
        "sigmoid_binary_cross_entropy",
        "update_infinity_moment",
        "update_moment",
        "update_moment_per_elem_norm",
    ),
}
EXCEPTIONS = {
    "differentially_private_aggregate": "takes a gradient for every example, not that of the mean loss",
    "dpsgd": "takes a gradient for every example, not that of the mean loss",
    "hutchinson_estimator_diag_hessian": "gives the diagonal of the Hessian, which is no update",
    "lookahead": "trains a pair of parameters, and takes the gradient by one of them",
    "measure_with_ema": "gives a measurement, which is no update",
}
QUICK = {"adam", "polyak_sgd", "prodigy", "reduce_on_plateau"}


def functions(module):
    for name, function in vars(module).items():
        if name[0].islower() and callable(function) and not inspect.isclass(function):
            yield name, function


def transformations():
    """Name → function, of all that Optax publishes and that returns a gradient transformation."""
    found = {}
    for module in (optax, optax.contrib):
        for name, function in functions(module):
            returned = str(inspect.signature(function).return_annotation)
            if "GradientTransformation" in returned or name in UNANNOTATED:
                found[name] = function
    return {name: found[name] for name in sorted(found)}


def make(name):
    function = transformations()[name]
    if name in CALLS:
        return CALLS[name](function)
    required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    return function(*(ARGUMENTS[p.name] for p in required))


def loss(params, carry, chunk, key):
    ys = jnp.tanh(chunk @ params["w"] + params["b"][None] + carry)
    return jnp.mean((ys - jax.random.normal(key, ys.shape, ys.dtype)) ** 2), ys


def initial(dtype="float32"):
    return {"w": jnp.arange(6, dtype=dtype).reshape(3, 2) / 6 - 0.3, "b": jnp.ones(2, dtype)}


CHUNKS = np.random.default_rng(0).standard_normal((2, 4, 3)).astype("float32")


def plainly(name, steps):
    """The steps by Optax's own recipe, with nothing donated."""
    params, optimizer = initial(), optax.with_extra_args_support(make(name))
    opt_state, carry, key = optimizer.init(params), jnp.zeros((4, 2)), jax.random.key(0)

    @jax.jit
    def step(params, opt_state, carry, chunk, key):
        def value_fn(params, obj_fn=None):
            return loss(params, carry, chunk, key)[0]

        (value, carry_), grads = jax.value_and_grad(loss, has_aux=True)(params, carry, chunk, key)
        extra = {"value": value, "grad": grads, "value_fn": value_fn, "obj_fn": value_fn}
        extra = {} if name == "sam" else extra
        updates, opt_state = optimizer.update(grads, opt_state, params, **extra)
        return optax.apply_updates(params, updates), opt_state, carry_

    for i in range(steps):
        params, opt_state, carry = step(params, opt_state, carry, CHUNKS[i], jax.random.fold_in(key, i))
    return params, opt_state, carry


def types(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def trained(names):
    marks = {name: [] if name in QUICK else [pytest.mark.slow] for name in names}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=m) for n, m in marks.items()])


# Of an optimiser and the scaling that it is made of, the optimiser.
PARTS = {f"scale_by_{name}" for name in transformations()}
NAMES = [name for name in transformations() if name not in EXCEPTIONS.keys() | PARTS]


def test_the_table_knows_all_that_optax_has():
    """What Optax adds is tried unasked; it fails for want of an argument, or here of a signature."""
    unannotated = {
        name
        for module in (optax, optax.contrib)
        for name, function in functions(module)
        if inspect.signature(function).return_annotation is inspect.Signature.empty
    }
    assert unannotated <= UNANNOTATED | HELPERS | EXCEPTIONS.keys()
    assert len(NAMES) > 100


# Optimisers of Optax's core that take nothing but the gradient are only traced, below.
SCALINGS = [name for name in NAMES if name.startswith("scale_by_")]
CONTRIBUTED = [name for name in NAMES if hasattr(optax.contrib, name)]
CALLED = [name for name in NAMES if name in CALLS or name == "lbfgs"]


@trained(dict.fromkeys([*SCALINGS, *CONTRIBUTED, *CALLED, *sorted(QUICK)]))
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_trains(name):
    """As by Optax's own recipe, without donation."""
    optimizer = make(name)
    state = init_state(initial(), optimizer, jnp.zeros((4, 2)), jax.random.key(0))
    step = truncated_step(loss, optimizer)
    for chunk in CHUNKS:
        state, _ = step(state, chunk)
    expected = plainly(name, len(CHUNKS))
    for got, want in zip(jax.tree.leaves(state[:3]), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(got.dtype, jax.dtypes.prng_key):
            got, want = jax.random.key_data(got), jax.random.key_data(want)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@trained([name for name in NAMES if name not in SCALINGS])
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_half_precision_stays(name):
    """No leaf of the state changes its type from step to step."""
    optimizer = make(name)
    state = init_state(initial("bfloat16"), optimizer, jnp.zeros((4, 2), "bfloat16"), jax.random.key(0))
    step, seen = truncated_step(loss, optimizer), [types(state)]
    for chunk in CHUNKS:
        state, _ = jax.eval_shape(step, state, chunk.astype("bfloat16"))
        seen.append(types(state))
    assert seen[2] == seen[1]
    assert seen[1] == seen[0] or name == "monitor"  # which has measured nothing at first
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.carry))} == {jnp.dtype("bfloat16")}


def test_leaves_that_are_one_array_train_apart():
    """Tied parameters, a carry that holds them, a key in two places: donation needs a buffer for each."""
    w, key, h = jnp.ones(2), jax.random.key(0), jnp.zeros(2)
    params = {"w": w, "tied": w, "placed": jax.device_put(w, jax.devices()[0])}

    def loss(params, carry, chunk, key):
        h = jnp.tanh(carry[0] + params["w"] * chunk + params["tied"] - params["placed"])
        return jnp.mean(h**2), (h, h, carry[2])

    state = init_state(params, SGD, (h, h, key), key)
    addresses = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state[:2])]
    assert len(set(addresses)) == len(addresses)
    step = truncated_step(loss, SGD)
    for _ in range(2):
        state, metrics = step(state, jnp.ones(2))
    assert np.isfinite(metrics.loss)
    assert not np.allclose(state.params["w"], state.params["placed"])


def test_replicated_leaves_that_are_one_array_train_apart():
    replicated = jax.NamedSharding(jax.make_mesh((4,), ("x",), (jax.sharding.AxisType.Auto,)), jax.P())
    w = jax.device_put(jnp.ones(2), replicated)
    optimizer = optax.contrib.prodigy()
    state = init_state({"w": w, "tied": w}, optimizer, (), jax.random.key(0))
    step = truncated_step(lambda p, c, x, k: (jnp.mean((p["w"] * x - p["tied"]) ** 2), c), optimizer)
    state, metrics = step(state, jnp.full(2, 3.0))
    assert float(metrics.loss) == 4
    assert state.params["w"].sharding.is_fully_replicated


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.clip_by_global_norm(1.0), optax.contrib.sam(SGD, SGD)),
        optax.contrib.sam(SGD, SGD, opaque_mode=True),
        optax.chain(optax.clip(1.0), optax.contrib.sam(SGD, SGD, opaque_mode=True)),
        optax.MultiSteps(optax.polyak_sgd(), 2),
        optax.MultiSteps(optax.contrib.prodigy(), 2).gradient_transformation(),
        optax.GradientTransformation(SGD.init, SGD.update),
        optax.GradientTransformationExtraArgs(
            SGD.init, lambda grads, state, params, *, value: SGD.update(grads, state, params)
        ),
    ],
    ids=[
        "sam in a chain",
        "opaque sam",
        "opaque sam in a chain",
        "MultiSteps",
        "over prodigy",
        "no extra",
        "strict",
    ],
)
@pytest.mark.slow
def test_transformations_that_take_other_arguments_train(optimizer):
    state = init_state(initial(), optimizer, jnp.zeros((4, 2)), jax.random.key(0))
    step = truncated_step(loss, optimizer)
    for chunk in CHUNKS:
        state, _ = step(state, chunk)
    assert np.any(np.asarray(state.params["w"]) != np.asarray(initial()["w"]))


def test_an_error_of_the_optimizer_is_not_swallowed():
    def update(grads, state, params, *, mine):
        return grads, state

    optimizer = optax.GradientTransformationExtraArgs(SGD.init, update)
    state = init_state(initial(), optimizer, jnp.zeros((4, 2)), jax.random.key(0))
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'mine'"):
        truncated_step(loss, optimizer)(state, CHUNKS[0])


def test_a_line_search_sees_the_loss_of_this_chunk():
    """Of a quadratic, from any point, with the carry held: the exact minimum along the gradient."""

    def loss(params, carry, chunk, key):
        return jnp.sum((params - chunk - carry) ** 2), carry + 1

    optimizer = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(20, slope_rtol=0.5))
    state = init_state(jnp.zeros(2), optimizer, jnp.ones(2), jax.random.key(0))
    state, _ = truncated_step(loss, optimizer)(state, jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(state.params, [2, 3], rtol=0.3)


@pytest.mark.slow
def test_muon_as_experiments_have_it():
    """A matrix moves along an orthogonal one, as far as by Adam; vectors and tables of words by Adam."""
    config = TrainingSettings(optimizer="muon", learning_rate=0.5, warmup_steps=0, clip_norm=None)
    random = np.random.default_rng(0)
    params = {"w": jnp.zeros((6, 24)), "b": jnp.zeros(24), "words": jnp.zeros((5000, 2))}
    gradient = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 1, leaf.shape), jnp.float32), params)
    moves = {}
    for name, optimizer in (
        ("muon", make_optimizer(config)),
        ("adam", optax.adam(0.5, b2=0.99, nesterov=True)),
    ):
        moves[name], _ = optimizer.update(gradient, optimizer.init(params), params)
    left, values, right = np.linalg.svd(moves["muon"]["w"], full_matrices=False)
    np.testing.assert_allclose(values, 0.5 * 0.2 * np.sqrt(24), rtol=0.35)  # Newton–Schulz is rough
    exact_left, _, exact_right = np.linalg.svd(gradient["w"], full_matrices=False)
    np.testing.assert_allclose(left @ right, -exact_left @ exact_right, atol=1e-4)
    for name in ("b", "words"):
        np.testing.assert_allclose(moves["muon"][name], moves["adam"][name], rtol=1e-6)


def test_equal_runs_compile_once():
    """Of other seeds, say; a schedule of more steps is another optimiser."""

    def compiled(**changes):
        model = LanguageModel(5, [GRU(3)], embedding_size=2)
        task = Task(
            model.init, stream_loss(model), CHUNKS.item, list, "", ("", 1), carry=first_carry(model)
        )
        config = TrainingSettings(**changes)
        optimizer = make_optimizer(config)
        return train_step(task, optimizer, first_state(config, task.init, optimizer))

    assert compiled(seed=0) is compiled(seed=1)
    assert compiled(steps=5) is not compiled(steps=6)
