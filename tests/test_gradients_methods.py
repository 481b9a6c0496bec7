"""Real-time recurrent learning and the explicit terms, against ``jax.grad`` and against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.gradients import explicit_terms, rtrl
from tests.table import IN_FEATURES, Row, random_carry, random_like, random_params, relative_error
from tests.unrolling import TIME, both_directions, five_cells, problem

TOLERANCE = {"float32": 1e-4, "float64": 1e-12}
UNOPTIMIZED = {"xla_backend_optimization_level": 0}  # compiles in half the time


def loss_weights(cell, xs, carry):
    """Random d_ys and d_carry: the weights of L = Σ⟨d_ys, ys⟩ + Σ⟨d_carry, S_T⟩."""
    d_ys = random_like(jax.ShapeDtypeStruct((*xs.shape[:-1], cell.out_features), xs.dtype), seed=11)
    return {"d_ys": d_ys, "d_carry": random_like(carry, seed=12)}


def total(weights, carry, ys):
    """L."""
    pairs = zip(jax.tree.leaves((weights["d_carry"], weights["d_ys"])), [*carry, ys], strict=True)
    return sum(jnp.vdot(weight, leaf) for weight, leaf in pairs)


@functools.partial(jax.jit, static_argnames=("cell", "reverse"), compiler_options=UNOPTIMIZED)
def every_way(cell, params, xs, carry, weights, *, reverse=False, **masks):
    """Gradients of params and carry by autodiff and by RTRL, and the terms of the former."""

    def loss(params, carry):
        last, ys = jaxrnn.unroll(cell, params, xs, carry, reverse=reverse, **masks)
        return total(weights, jax.tree.leaves(last), ys)

    options = weights | masks | {"reverse": reverse}
    return (
        jax.grad(loss, argnums=(0, 1))(params, carry),
        rtrl(cell, params, xs, carry, **options),
        explicit_terms(cell, params, xs, carry, **options),
    )


def assert_all_agree(cell, params, xs, carry, dtype, **options):
    weights = loss_weights(cell, xs, carry)
    expected, forward, terms = every_way(cell, params, xs, carry, weights, **options)
    assert relative_error(forward, expected) < TOLERANCE[dtype]
    summed = jax.tree.map(lambda leaf: leaf.sum(0), terms)
    assert relative_error(summed, expected[0]) < TOLERANCE[dtype]
    assert all(np.any(leaf) for leaf in jax.tree.leaves(expected))


@five_cells
def test_padding_resets_reverse(row: Row, float64):
    """Lengths 0 and full, resets, biases and a first carry that are not zero."""
    params, xs, carry, lengths, resets = problem(row.cell, float64)
    assert_all_agree(row.cell, params, xs, carry, float64, lengths=lengths, resets=resets, reverse=True)


@pytest.mark.parametrize(
    ("dtype", "lengths"),
    [("float32", 5), pytest.param("float64", [[5, 0], [7, 3]], marks=pytest.mark.slow)],
    indirect=["dtype"],
    ids=str,
)
def test_any_batch_dimensions(dtype, lengths):
    cell = jaxrnn.LSTM(5)
    params, xs, carry, _, resets = problem(cell, dtype, np.shape(lengths))
    assert_all_agree(cell, params, xs, carry, dtype, lengths=np.array(lengths), resets=resets)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell", [jaxrnn.Zoneout(jaxrnn.LSTM(3)), jaxrnn.VariationalDropout(jaxrnn.LSTM(3))]
)
def test_noise(cell, float64):
    params, xs, carry, lengths, resets = problem(cell, float64)
    noise = cell.noise(jax.random.key(0), TIME, xs.shape[1:-1])
    noise = jax.tree.map(lambda leaf: leaf.astype(float64), noise)
    assert_all_agree(cell, params, xs, carry, float64, lengths=lengths, resets=resets, noise=noise)


@pytest.mark.slow
def test_no_step_and_no_sequence():
    cell = jaxrnn.Elman(2)
    params = random_params(cell, "float32")
    for shape in ((0, 4, IN_FEATURES), (3, 0, IN_FEATURES)):
        carry = random_carry(cell, shape[1:-1], "float32")
        d_params, d_carry = rtrl(cell, params, jnp.zeros(shape), carry, d_carry=carry)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(d_params))
        np.testing.assert_array_equal(d_carry.h, carry.h)
        assert explicit_terms(cell, params, jnp.zeros(shape), carry, d_carry=carry).b.shape == (shape[0], 2)


@pytest.mark.slow
def test_gradients_have_the_dtypes_of_what_they_belong_to():
    """Parameters narrower than the inputs, a carry of both kinds, weights of the loss that are wider."""
    cell = jaxrnn.LSTM(2)
    params = random_params(cell, "bfloat16")
    xs, carry = jnp.ones((3, 4, IN_FEATURES)), random_carry(cell, (4,), "bfloat16")
    d_last = jax.tree.map(lambda leaf: np.ones(leaf.shape), carry)  # float64 of NumPy
    d_params, d_carry = rtrl(cell, params, xs, carry, d_carry=d_last)
    terms = explicit_terms(cell, params, xs, carry, d_carry=d_last)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((d_params, terms))} == {"bfloat16"}
    assert [leaf.dtype for leaf in d_carry] == [leaf.dtype for leaf in carry] == ["bfloat16", "float32"]
    wide = jax.tree.map(lambda leaf: leaf.astype("float32"), params)
    expected, _ = rtrl(cell, wide, xs, carry, d_carry=d_last)
    assert relative_error(d_params, expected) < 0.05


def elman_problem(seed=0, time=6, n=4):
    """An Elman network, one sequence, and NumPy's copies of everything."""
    cell = jaxrnn.Elman(n)
    params = random_params(cell, "float64", seed=seed)
    random = np.random.default_rng(seed)
    xs, d_ys = random.standard_normal((time, IN_FEATURES)), random.standard_normal((time, n))
    h, d_h = random.standard_normal((2, n))
    return cell, params, xs, h, d_ys, d_h


def numpy_rtrl(params, xs, h, d_ys, d_h):
    """Williams & Zipser (1989), eqs. 8-11: p[k, i, j] = ∂h_k/∂w_ij, for the weights of z = [x h 1] w."""
    w = np.concatenate([params.w_ih, params.w_hh, np.asarray(params.b)[None]])
    n = len(h)
    p, gradient = np.zeros((n, *w.shape)), np.zeros(w.shape)
    for x, d_y in zip(xs, d_ys, strict=True):
        z = np.concatenate([x, h, [1.0]])
        h = np.tanh(z @ w)
        through = np.einsum("lk,lij->kij", np.asarray(params.w_hh), p)
        through[np.arange(n), :, np.arange(n)] += z  # δ_kj z_i
        p = (1 - h**2)[:, None, None] * through
        gradient += np.tensordot(d_y, p, axes=1)
    return gradient + np.tensordot(d_h, p, axes=1)


def test_rtrl_equals_williams_and_zipser(float64):
    cell, params, xs, h, d_ys, d_h = elman_problem()
    expected = numpy_rtrl(params, xs, h, d_ys, d_h)
    actual, _ = rtrl(
        cell, params, xs, jaxrnn.ElmanCarry(h), d_ys=d_ys, d_carry=jaxrnn.ElmanCarry(jnp.asarray(d_h))
    )
    joined = np.concatenate([actual.w_ih, actual.w_hh, actual.b[None]])
    assert relative_error(joined, expected) < 1e-14


def test_memory_of_rtrl_does_not_grow_with_time():
    """But for the inputs and weights themselves, which the compiled program may copy."""
    cell = jaxrnn.Elman(8)
    params = random_params(cell, "float32")

    def memory(time):
        xs, d_ys = jnp.zeros((time, 2, IN_FEATURES)), jnp.zeros((time, 2, 8))
        program = jax.jit(functools.partial(rtrl, cell), compiler_options=UNOPTIMIZED)
        compiled = program.lower(params, xs, d_ys=d_ys).compile()
        return compiled.memory_analysis().temp_size_in_bytes, xs.nbytes + d_ys.nbytes

    (short, inputs_short), (long, inputs_long) = memory(20), memory(200)
    influence = 2 * 8 * (sum(leaf.size for leaf in params) + 8) * 4
    assert short > influence
    assert long - short <= inputs_long - inputs_short
    assert inputs_long - inputs_short < 180 / 4 * influence  # what keeping the influence would have cost


def test_a_term_is_the_product_of_jacobians_and_the_explicit_derivative(float64):
    """Pascanu et al. (2013), eqs. 3-5, in NumPy: ∂h_j/∂h_{j-1} = diag(1 − h_j²) W_hhᵀ."""
    cell, params, xs, h, _, d_h = elman_problem()
    w_hh = np.asarray(params.w_hh)
    states = [h]
    for x in xs:
        states.append(np.tanh(x @ np.asarray(params.w_ih) + states[-1] @ w_hh + np.asarray(params.b)))
    terms = explicit_terms(
        cell, params, xs, jaxrnn.ElmanCarry(h), d_carry=jaxrnn.ElmanCarry(jnp.asarray(d_h))
    )
    for k in range(len(xs)):
        d_k = d_h
        for j in range(len(xs) - 1, k, -1):
            d_k = d_k @ (np.diag(1 - states[j + 1] ** 2) @ w_hh.T)
        delta = d_k * (1 - states[k + 1] ** 2)
        expected = (np.outer(xs[k], delta), np.outer(states[k], delta), delta)
        assert relative_error([leaf[k] for leaf in terms], expected) < 1e-14


def terms_by_copies(cell, params, xs, carry, weights, lengths, resets, reverse):
    """Every step is given parameters of its own: the gradient of each copy is a term, d† by definition.

    No mask and no batch: loops over the steps that each sequence has.
    """
    initial = jax.tree.map(lambda leaf: leaf.astype(xs.dtype), cell.initial_carry())
    copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(xs)), params)

    def loss(copies):
        value = 0.0
        for b, length in enumerate(lengths):
            state = jax.tree.map(lambda leaf, b=b: leaf[b], carry)
            for t in range(length)[:: -1 if reverse else 1]:
                edge = t + 1 if reverse else t
                if edge < length and resets[edge, b]:
                    state = initial
                own = jax.tree.map(lambda leaf, t=t: leaf[t], copies)
                state, y = cell.step(own, state, xs[t, b])
                value += jnp.vdot(weights["d_ys"][t, b], y)
            last = jax.tree.map(lambda leaf, b=b: leaf[b], weights["d_carry"])
            value += sum(map(jnp.vdot, jax.tree.leaves(last), jax.tree.leaves(state)))
        return value

    return jax.jit(jax.grad(loss), compiler_options=UNOPTIMIZED)(copies)


@both_directions
@pytest.mark.parametrize(
    "cell", [jaxrnn.Elman(3), pytest.param(jaxrnn.LSTM(3), marks=pytest.mark.slow)], ids=["elman", "lstm"]
)
@pytest.mark.slow
def test_every_term_is_the_gradient_of_that_steps_own_parameters(cell, reverse, float64):
    params, xs, carry, _, resets = problem(cell, float64, batch_shape=(3,))
    xs, resets, lengths = xs[:5], np.asarray(resets[:5]).copy(), np.array([5, 3, 0])
    resets[2, 0] = True
    weights = loss_weights(cell, xs, carry)
    expected = terms_by_copies(cell, params, xs, carry, weights, lengths, resets, reverse)
    actual = explicit_terms(
        cell, params, xs, carry, **weights, lengths=lengths, resets=resets, reverse=reverse
    )
    for k in range(5):
        one, other = (jax.tree.map(lambda leaf, k=k: leaf[k], tree) for tree in (actual, expected))
        assert relative_error(one, other) < 1e-13


@both_directions
def test_terms_before_a_reset_and_at_padding_are_exactly_zero(reverse, float64):
    """With a loss of the last carry alone."""
    cell = jaxrnn.Elman(3)
    params, xs, carry, _, _ = problem(cell, float64, batch_shape=())
    resets = np.zeros(TIME, bool)
    resets[3] = True
    terms = explicit_terms(
        cell, params, xs, carry, d_carry=carry, lengths=np.array(5), resets=resets, reverse=reverse
    )
    counts = [0, 1, 2] if reverse else [3, 4]  # of steps 0 to 4, those between the reset and the end
    for leaf in (terms.w_ih, terms.b):  # the term of w_hh is zero at the reset too, where h is
        assert [t for t in range(TIME) if np.any(leaf[t])] == counts
