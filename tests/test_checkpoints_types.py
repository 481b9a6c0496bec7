"""Checkpoints: a restored state has the types of ``like``; what could not come back is refused before."""

import collections
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrnn.training.checkpoint import Checkpoints
from jaxrnn.training.state import TrainState, init_state
from jaxrnn.training.step import truncated_step

KEY = jax.random.key(0)
BF16 = jnp.dtype("bfloat16")


def holding(carry, key=KEY):
    return TrainState(jnp.ones(2), (), carry, jnp.int32(1), key)


def restored(folder, saved, like):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(saved, {})
        return checkpoints.restore(1, like=like)[0]


KEPT = [
    (jnp.array([0.1, 2.0]), jnp.zeros(2)),
    (jnp.array([0.1, 2.0]), np.zeros(2, "float32")),
    (jnp.array([0.1, 2.0]), np.zeros(2)),
    (jnp.array([0.1, 2.0]), jnp.zeros(2, BF16)),
    (jnp.array([0.1, 2.0]), jnp.zeros(2, "float16")),
    (jnp.array([0.1, jnp.nan, jnp.inf]), jnp.zeros(3, BF16)),
    (jnp.array([0.1, 2.0], BF16), jnp.zeros(2)),
    (jnp.array([0.1, 2.0], BF16), jnp.zeros(2, BF16)),
    (np.array([0.1, 1e-300]), jnp.zeros(2)),
    (np.array([0.1, 1e-300]), np.zeros(2)),
    (np.float64(0.1), np.float64(0)),
    (np.float32(0.1), np.float32(0)),
    (np.float32(0.1), 0.0),
    (0.1, 0.0),
    (0.1, jnp.zeros(())),
    (0.1, np.float16(0)),
    (7, 0),
    (7, np.int64(0)),
    (7, jnp.int32(0)),
    (True, False),
    (True, jnp.zeros((), bool)),
    (0.5 + 1j, 0j),
    (0.5 + 1j, jnp.zeros((), "complex64")),
    (jnp.int8(-3), jnp.int32(0)),
    (jnp.int32(100), jnp.int8(0)),
    (jnp.array([5, 6], "uint32"), jnp.zeros(2, "uint32")),
    (jnp.array([5, 6], "uint32"), np.zeros(2, "uint32")),
    (jnp.array([5, 6], "uint32"), np.zeros(2, "int64")),
    (jnp.array([1, -2], "int4"), jnp.zeros(2, "int4")),
    (jnp.array([0.5, 1.0], "float8_e4m3fn"), jnp.zeros(2, "float8_e4m3fn")),
    (np.array([0.5], ">f4"), np.zeros(1, "float32")),
]


def test_leaves_come_back_as_like(tmp_path):
    saved, likes = ({str(i): pair[j] for i, pair in enumerate(KEPT)} for j in (0, 1))
    carry = restored(tmp_path, holding(saved), holding(likes)).carry
    for name, like in likes.items():
        got, want = carry[name], np.asarray(saved[name]).astype(np.asarray(like).dtype)
        assert type(got) is type(like), name
        assert np.asarray(got).dtype == np.asarray(like).dtype, name
        assert np.asarray(got).tobytes() == want.tobytes(), name


REFUSED = [
    (jnp.zeros(2), jnp.zeros(2, "int32"), r"carry/leaf should be int32, got float32"),
    (jnp.zeros(2, "int32"), jnp.zeros(2), r"carry/leaf should be float32, got int32"),
    (0.5, 0, r"carry/leaf should be int64, got float64"),
    (1, 0.5, r"carry/leaf should be float64, got int64"),
    (1, True, r"carry/leaf should be bool, got int64"),
    (jnp.zeros(2, "complex64"), jnp.zeros(2), r"carry/leaf should be float32, got complex64"),
    (jnp.int32(300), jnp.int8(0), r"carry/leaf should be int8, got int32 beyond its range"),
    (2**40, jnp.int32(0), r"carry/leaf should be int32, got int64 beyond its range"),
    (jnp.int32(-1), jnp.uint32(0), r"carry/leaf should be uint32, got int32 beyond its range"),
    (jnp.float32(1e30), jnp.float16(0), r"carry/leaf should be float16, got float32 beyond its range"),
    (jnp.zeros(2), jnp.zeros(3), r"carry/leaf should have shape \(3,\), got \(2,\)"),
    (jnp.zeros(2), 0.5, r"carry/leaf should have shape \(\), got \(2,\)"),
    (jnp.zeros(2), {}, r"carry/leaf should have shape nothing, got \(2,\)"),
    (jnp.zeros(2), "text", r"like: carry/leaf should be an array, a number or a shape and type, got str"),
]


LEAVES = {str(i): saved for i, (saved, _, _) in enumerate(REFUSED)}


def keys(seed):
    typed = {impl: jax.random.key(seed, impl=impl) for impl in ("threefry2x32", "rbg", "unsafe_rbg")}
    return typed | {"raw": jax.random.PRNGKey(seed)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of all leaves of the table, and of a key of each implementation."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(holding(LEAVES | keys(5)), {})
    return folder


def restore_with(folder, name, like):
    with Checkpoints(folder, read_only=True) as checkpoints:
        return checkpoints.restore(1, like=holding(LEAVES | keys(1) | {name: like}))[0].carry[name]


@pytest.mark.parametrize("index", range(len(REFUSED)))
def test_a_leaf_that_cannot_be_like_is_named(folder, index):
    _, like, message = REFUSED[index]
    with pytest.raises(ValueError, match=message.replace("leaf", str(index))):
        restore_with(folder, str(index), like)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg", "raw"])
def test_keys_keep_their_implementation(folder, impl):
    got, key = restore_with(folder, impl, keys(1)[impl]), keys(5)[impl]
    assert got.dtype == key.dtype
    np.testing.assert_array_equal(jax.random.uniform(got, 3), jax.random.uniform(key, 3))
    for other in keys(1).keys() - {impl}:
        with pytest.raises(
            ValueError, match=rf"does not fit: carry/{other} should (be|have shape) .*, got "
        ):
            restore_with(folder, other, keys(1)[impl])


def test_a_key_of_each_lane_keeps_its_place(tmp_path):
    sharding = jax.NamedSharding(jax.make_mesh((4,), ("x",), (jax.sharding.AxisType.Auto,)), jax.P("x"))
    keys = jax.random.split(KEY, 8)
    for number, like in enumerate([keys, jax.device_put(keys, sharding), jax.eval_shape(lambda: keys)]):
        got = restored(tmp_path / str(number), holding(keys), holding(like)).carry
        assert got.dtype == keys.dtype
        assert bool((got == keys).all())
        assert got.sharding == (sharding if number == 1 else keys.sharding)


def test_words_that_are_no_key(tmp_path):
    with pytest.raises(ValueError, match=r"carry should be uint32, got key<fry>"):
        restored(tmp_path / "a", holding(KEY), holding(np.zeros(2, "uint32")))
    with pytest.raises(ValueError, match=r"carry should be key<fry>, got float32"):
        restored(tmp_path / "b", holding(jnp.zeros(2)), holding(KEY))


def train(optimizer):
    def loss(params, carry, chunk, key):
        h = jnp.tanh(params["w"] * chunk + carry + jax.random.normal(key, chunk.shape))
        return jnp.mean((h - params["b"]) ** 2), h

    return truncated_step(loss, optimizer)


def fresh(optimizer, carry=None):
    w = jnp.array([0.1, -0.2, 0.3, 0.4])
    carry = jnp.zeros(4) if carry is None else jnp.copy(carry)
    return init_state({"w": w, "b": w}, optimizer, carry, jax.random.key(0))


OPTIMIZERS = {
    "adam": optax.adam(0.1),
    "prodigy": optax.contrib.prodigy(),
    "sam": optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1)),
    "mechanize": optax.contrib.mechanize(optax.sgd(0.1)),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
}


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.parametrize(
    "name", ["adam", *(pytest.param(n, marks=pytest.mark.slow) for n in OPTIMIZERS if n != "adam")]
)
def test_a_restored_run_goes_on_as_if_it_had_not_stopped(tmp_path, name, abstract):
    """The carry split over devices, the rest on none in particular."""
    optimizer = OPTIMIZERS[name]
    mesh = jax.make_mesh((4,), ("x",), (jax.sharding.AxisType.Auto,))
    carry = jax.device_put(jnp.zeros(4), jax.NamedSharding(mesh, jax.P("x")))
    step, chunk = train(optimizer), jax.device_put(jnp.ones(4), carry.sharding)
    state, _ = step(fresh(optimizer, carry), chunk)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, {})
    expected, _ = step(state, chunk)
    like = fresh(optimizer, carry)
    like = jax.eval_shape(lambda: like)._replace(carry=carry) if abstract else like
    with Checkpoints(tmp_path) as checkpoints:
        state, _ = checkpoints.restore(1, like=like)
    state, _ = step(state, chunk)
    for got, want in zip(jax.tree.leaves(state[:4]), jax.tree.leaves(expected[:4]), strict=True):
        np.testing.assert_array_equal(got, want)


def test_explicit_axes(tmp_path):
    """The shapes and types alone know the axes, and not the devices."""
    with jax.set_mesh(jax.make_mesh((4,), ("x",))):
        carry = jax.device_put(jnp.arange(8.0), jax.P("x"))
        abstract = jax.eval_shape(lambda: 2 * carry)
        for number, like in enumerate([jnp.zeros_like(carry), abstract]):
            got = restored(tmp_path / str(number), holding(carry), holding(like)).carry
            assert jax.typeof(got) == jax.typeof(carry)
            assert got.sharding == carry.sharding
            np.testing.assert_array_equal(got, np.arange(8.0))
    with (
        Checkpoints(tmp_path / "0", read_only=True) as checkpoints,
        pytest.raises(ValueError, match=r"mesh that is not set: restore within jax\.set_mesh"),
    ):
        checkpoints.restore(1, like=holding(abstract))


def test_names_with_slashes_and_other_letters(tmp_path):
    tree = {"a/b": 1.0, "a": {"b": 2.0}, "": 3.0, "é%/..": 4.0, "0": [5.0, {"x": 6.0}]}
    zeros = jax.tree.map(lambda leaf: 0.0, tree)
    assert restored(tmp_path, holding(tree), holding(zeros)).carry == tree


UNSTORABLE = [
    (
        {"a.b": 1.0, "a": {"b": 2.0}},
        r"the leaves .*\['b'\] and .*\['a\.b'\] would be stored under one name",
    ),
    (
        collections.OrderedDict([(1, 1.0), ("1", 2.0)]),
        r"the leaves .* and .* would be stored under one name",
    ),
    ("text", r"carry should be an array or a number, got str"),
    ({"f": print}, r"carry/f should be an array or a number, got builtin_function_or_method"),
    (np.array("text"), r"carry should be of a numeric type that can be stored, got <U4"),
    (np.array([None]), r"carry should be of a numeric type that can be stored, got object"),
    (np.zeros(1, "datetime64[s]"), r"carry should be of a numeric type that can be stored, got datetime64"),
    (2**70, r"carry should be of a numeric type that can be stored, got object"),
    (jnp.zeros(2, "uint4"), r"carry should be of a numeric type that can be stored, got uint4"),
    ({"a\udcff": 1.0}, r"the leaf 'carry/a\\udcff' should have a name that UTF-8 can spell"),
    ((jnp.zeros((2, 0)),), r"carry/0 should have elements, got shape \(2, 0\)"),
]


@pytest.mark.parametrize(("carry", "message"), UNSTORABLE, ids=[message[:40] for _, message in UNSTORABLE])
def test_a_state_that_could_not_come_back_is_not_saved(tmp_path, carry, message):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=message):
            checkpoints.save(holding(carry), {})
        assert not list(tmp_path.iterdir())


def test_a_state_whose_memory_a_step_has_taken_is_not_saved(tmp_path):
    state = fresh(optax.sgd(0.1))
    train(optax.sgd(0.1))(state, jnp.ones(4))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match=r"params/b was deleted"):
        checkpoints.save(state._replace(step=jnp.int32(1)), {})


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("step", [-1, 0.5, math.nan, None, jnp.zeros(2, "int32")], ids=repr)
def test_a_step_that_is_no_number_of_steps(tmp_path, step):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match=r"state\.step should be "):
        checkpoints.save(holding(())._replace(step=step), {})


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"a": [1, -2.5, "é\ud800", True, None, {"b": []}], "": 10**30},
        {"loss": math.inf, "best": -math.inf},
        {"float64": np.float64(0.1), "ordered": collections.OrderedDict(a=1)},
    ],
)
def test_a_record_comes_back_equal(tmp_path, record):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(holding(()), record)
        assert checkpoints.record(1) == record


def test_nan_in_a_record_comes_back(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(holding(()), {"window": [math.nan]})
        assert math.isnan(checkpoints.record(1)["window"][0])


def endless():
    record = {}
    record["self"] = record
    return record


BAD_RECORDS = [
    ({"a": {"b": (1, 2)}}, r"record\['a'\]\['b'\] should be a dict, list, .* got tuple \(1, 2\)"),
    ({"a": [0, np.float32(1)]}, r"record\['a'\]\[1\] should be .* got float32"),
    ({"n": np.int64(1)}, r"record\['n'\] should be .* got int64"),
    ({"b": np.bool_(True)}, r"record\['b'\] should be .* got bool"),
    ({"x": jnp.ones(1)}, r"record\['x'\] should be .* got ArrayImpl"),
    ({"s": {1}}, r"record\['s'\] should be .* got set \{1\}"),
    ({"s": b"x"}, r"record\['s'\] should be .* got bytes"),
    ({"c": 1j}, r"record\['c'\] should be .* got complex"),
    ({1: 2}, r"record should have strings as keys, which JSON keeps, got 1"),
    ({"a": {None: 2}}, r"record\['a'\] should have strings as keys, which JSON keeps, got None"),
    ({"n": 10**5000}, r"record cannot be read again as JSON"),
    (endless(), r"record is nested too deeply, or holds itself"),
    (None, r"record should be a dict, got NoneType"),
    ([1], r"record should be a dict, got list"),
]


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(("record", "message"), BAD_RECORDS, ids=[m[:30] for _, m in BAD_RECORDS])
def test_a_record_that_would_come_back_otherwise_is_refused(tmp_path, record, message):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=message):
            checkpoints.save(holding(()), record)
        assert not list(tmp_path.iterdir())
