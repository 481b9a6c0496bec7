"""The mutation study: its mistakes are made as they should be, and every one of them is noticed."""

import ast
import textwrap

import jax
import pytest
from jax.test_util import check_grads

import jaxrnn
from experiments.gradient_check import bench, equivalent_mutations, mutations
from experiments.gradient_check.mutants import mutants
from experiments.gradient_check.subjects import MASKED_STEP
from jaxrnn.gradients import GradientError, check

SMALL = '''
def step_bwd(self, params: Params, carry: Carry, d_carry: Carry, d_y: Array):
    """A docstring."""
    a, b = gates(d_y)
    d = select(a, d_carry.h * (1 - b), b.astype(a.dtype))
    if self.reset is None:
        d = -d
    return d.T, Delta(z=d)
'''
EXPECTED = """
a, b = zeroed(gates(d_y))
b, a = gates(d_y)
a, b = d_y
a, b = gates(d_carry)
d = zeroed(select(a, d_carry.h * (1 - b), b.astype(a.dtype)))
d = select(d_carry.h * (1 - b), a, b.astype(a.dtype))
d = select(a, b.astype(a.dtype), d_carry.h * (1 - b))
d = select(b, d_carry.h * (1 - b), b.astype(a.dtype))
d = select(d_y, d_carry.h * (1 - b), b.astype(a.dtype))
d = select(a, d_carry.h + (1 - b), b.astype(a.dtype))
d = select(a, d_carry.h / (1 - b), b.astype(a.dtype))
d = select(a, d_carry.h, b.astype(a.dtype))
d = select(a, 1 - b, b.astype(a.dtype))
d = select(a, d_carry.c * (1 - b), b.astype(a.dtype))
d = select(a, carry.h * (1 - b), b.astype(a.dtype))
d = select(a, d_carry.h * (1 + b), b.astype(a.dtype))
d = select(a, d_carry.h * 1, b.astype(a.dtype))
d = select(a, d_carry.h * b, b.astype(a.dtype))
d = select(a, d_carry.h * (b - 1), b.astype(a.dtype))
d = select(a, d_carry.h * (2 - b), b.astype(a.dtype))
d = select(a, d_carry.h * (0 - b), b.astype(a.dtype))
d = select(a, d_carry.h * (1 - a), b.astype(a.dtype))
d = select(a, d_carry.h * (1 - b), a.astype(a.dtype))
if self.reset is not None:
d = zeroed(-d)
d = d
d = -b
return (zeroed(d.T), Delta(z=d))
return (d.T, zeroed(Delta(z=d)))
return (Delta(z=d), d.T)
return (d, Delta(z=d))
return (b.T, Delta(z=d))
return (d.T, Delta(z=zeroed(d)))
return (d.T, Delta(z=b))
"""


def test_mistakes_of_a_small_function():
    (tree,) = ast.parse(SMALL).body
    found = mutants(tree, fields=[("h", "c"), ("z",)])
    assert [mutant.after.replace("(a, b)", "a, b") for mutant in found] == EXPECTED.strip().split("\n")
    for mutant in found:  # one line differs, and no other
        original = textwrap.dedent(ast.unparse(tree)).split("\n")
        changed = mutant.source.split("\n")
        assert [line.strip() for line in original if line not in changed] == [mutant.before]
        assert [line.strip() for line in changed if line not in original] in ([mutant.after], [])


def test_mistakes_stay_within_the_given_nodes():
    (tree,) = ast.parse("a, b = x + y, lambda h: h * h").body
    found = mutants(tree, within=[tree.value.elts[1].body])
    lines = ["(x + y, lambda h: h + h)", "(x + y, lambda h: h / h)", "(x + y, lambda h: h)"]
    assert [mutant.after.partition(" = ")[2] for mutant in found] == lines


@pytest.mark.slow
def test_what_is_written_once_is_seeded_once():
    names = [{m.target.name for m in mutations.seed(name)} for name in mutations.SUBJECTS]
    assert len(set.union(*names)) == sum(map(len, names))
    assert {"LSTM.step_bwd", "DenseCell.param_grads", "dense.weight_grad"} <= set.union(*names)
    assert {"PeepholeLSTM.step_fwd", "elman._ACTIVATIONS", "scan.masked_step_bwd"} <= set.union(*names)
    public = {name for name in jaxrnn.__all__ if isinstance(getattr(jaxrnn, name), type)}
    cells = {name for name in public if issubclass(getattr(jaxrnn, name), jaxrnn.Cell)} - {"Cell"}
    assert cells | {MASKED_STEP} == set(mutations.SUBJECTS)


@pytest.mark.slow
def test_every_entry_is_about_some_mistake(monkeypatch):
    seeded = [m for name in mutations.SUBJECTS for m in mutations.seed(name)]
    for entry in equivalent_mutations.EQUIVALENT:
        monkeypatch.setattr(equivalent_mutations, "EQUIVALENT", (entry,))
        assert any(equivalent_mutations.reason(m) for m in seeded), entry


@pytest.mark.slow
def test_a_planted_mistake_is_found_by_check_and_taken_out_again(float64, as_users_run):
    mutation = next(m for m in mutations.seed("GRU") if m.after == "d_h = d_carry.h - d_y")
    cell = bench.renewed(jaxrnn.GRU(3))
    params = cell.init(jax.random.key(0), 2, "float64")
    xs = jax.random.normal(jax.random.key(1), (3, 2, 2))
    leave_out = ("rtrl", "explicit_terms", "complex_step", "finite_difference")
    original = vars(jaxrnn.GRU)["step_bwd"]
    with bench.planted(mutation), pytest.raises(GradientError) as error:
        check(cell, params, xs, leave_out=leave_out)
    assert error.value.report.worst.method == "bptt"
    assert vars(jaxrnn.GRU)["step_bwd"] is original
    check(bench.renewed(cell), params, xs, leave_out=leave_out)


@pytest.mark.slow
def test_check_grads_is_asked_as_its_users_ask_it(float64, as_users_run):
    """``check_vjp`` on a pull-back at hand says what ``check_grads`` says of the function itself."""
    problem = bench.Bench(jaxrnn.Elman(3), mutations.KINDS[0], "float64")
    wrong = next(m for m in mutations.seed("Elman") if "ElmanCarry(h=zeroed(" in m.after)

    def function(*arguments):
        return problem.unroll("bptt", *arguments)

    with jax.disable_jit():
        assert not problem.check_grads(None)
        check_grads(function, problem.arguments, order=1, modes=["rev"])
        assert problem.check_grads(wrong)
        with bench.planted(wrong), pytest.raises(AssertionError):
            check_grads(function, problem.arguments, order=1, modes=["rev"])


# The study, experiments.gradient_check, plants every mistake; here it is every k-th.
SHORT, LONG = {"Elman", "IRNN"}, {"LayerNormLSTM", MASKED_STEP, "GRU", "Stack", "PeepholeLSTM"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "every"),
    [(name, 48 if name in SHORT else 384 if name in LONG else 128) for name in mutations.SUBJECTS],
)
def test_every_mistake_that_changes_the_function_is_found(name, every, as_users_run):
    study = mutations.study(name, (), every=every)
    assert study.unexplained == []
    assert study.seeded == sum(study.found.values()) + len(study.survivors)
    assert study.seeded > 0 or name == "IRNN"  # which inherits all it has from Elman


@pytest.mark.slow
def test_a_derivative_that_is_wrong_as_it_stands_is_said_to_be(monkeypatch, as_users_run):
    seeded = mutations.seed("MGU")
    monkeypatch.setattr(mutations, "seed", lambda name: seeded)  # what is planted has no source to read
    mistake = next(m for m in seeded if m.target.name == "MGU.step_bwd")
    mutations._bench.cache_clear()
    with bench.planted(mistake):
        study = mutations.study("MGU", (), every=50)
    mutations._bench.cache_clear()
    assert study.wrong.startswith("MGU(hidden_size=3")
    assert study.seeded == 0
