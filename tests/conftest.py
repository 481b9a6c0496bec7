"""Four host devices for every test, and float64 by choice, never by a global switch."""

import gc
import os
import re
from pathlib import Path
from unittest import mock

import jax
import jaxtyping
import pytest

# Tests compile a thousand small functions and run each once or twice: XLA need not optimise, and its older
# code generator compiles four times as fast. XLA aborts on a flag that it does not know, so that the flags
# are for the versions that they were tried with only; others run the same tests, slower.
COMPILES_FAST = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
if jax.__version_info__ < (0, 11):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    COMPILES_FAST["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}"

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_disable_most_optimizations", True)
# XLA reads its flags once, when the devices come up; processes that tests start run as users run them.
with mock.patch.dict(os.environ, COMPILES_FAST):
    jax.devices()


# A compiled program takes three memory maps or more, and Linux allows a process 65,530; beyond, the
# compiler crashes, and a worker that runs for a quarter of an hour comes there.
MEMORY_MAPS = Path("/proc/self/maps")
MOST_MEMORY_MAPS = 50_000

# The quick check runs the contract tests on one cell, tests of both dtypes in float64 only, and no doctest.
QUICK_CELL = "lstm"

# What takes long and finds little that a test beside it does not, as tests in float32 do.
THOROUGH = re.compile(
    r"""test_mutations\.py::test_every_mistake.*\[(?!LSTM|Elman)
    | test_translation_runs\.py::(test_every_switch|test_data_that_moved_and_more_steps)
    | test_faults\.py::test_processes_that_die
    | test_optimizers\.py::test_trains\[(scale_by_(?!adam)|(noisy|optimistic)_)
    | test_decoder\.py::test_every_method_agrees_on_the_gradient_by_the_condition
    | test_translation_ablation\.py::test_the_whole_study
    | test_hidden_units\.py::test_a_cell_whose_states_have_other_names
    | test_sequence\.py::test_padding_takes_no_part\[(?!bidirectional-last)
    | test_language_model\.py::test_train_step_exports_for_cpu_cuda_and_tpu\[autodiff
    | test_gradients_methods\.py::test_padding_resets_reverse\[(?!lstm)
    | test_training\.py::test_under_jax_s_safety_switches\[.*disable_jit
    | test_gradient_check\.py::test_a_wrong_derivative_shows_under_every_option
    | test_recurrence\.py::test_(ragged_with_resets|plain|padding_is_never_seen)\[(?!lstm|gru|min-|zo|st)
    | test_recurrence\.py::test_over_devices\[autodiff
    | test_bptt\.py::test_bfloat16_compute\[(gru|min|stack)
    | test_users_types\.py::.*test_half_precision_stays\[float16
    | test_seq2seq\.py::test_a_padded_batch_costs.*\[(?!plain|additive)
    | test_seq2seq\.py::test_gradients_of_the_attention_decoder.*True
    | test_captioner\.py::test_gradients_against_finite_differences\[(attention-|every|carry)
    | test_switches\.py::(test_decoders\[.*disable_jit|test_models\[transfer)
    | test_sharding\.py::test_decoders\[(?!beam|sample)
    | test_sharding\.py::(test_models_in_explicit_axes\[language|test_unroll_in_explicit_axes\[(?!lstm))
    | test_padding\.py::test_unroll\[(sphere-bptt|countdown)
    | test_regularized\.py::test_bptt_equals_autodiff\[(variational-|residual|.*-forward)""",
    re.VERBOSE,
)


def pytest_collection_modifyitems(items):
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        row, dtype = params.get("row"), params.get("dtype")
        other_cell = row is not None and row.name != QUICK_CELL
        if THOROUGH.search(item.nodeid) or (dtype == "float32" and (row is None or other_cell)):
            item.add_marker(pytest.mark.thorough)
        if other_cell or dtype == "float32" or isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.slow)
        if "thorough" in item.keywords:
            item.add_marker(pytest.mark.slow)
        if "slow" not in item.keywords:
            item.add_marker(pytest.mark.quick)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # what is there now stays: garbage is not looked for in it, over and over
    gc.set_threshold(50_000, 20, 20)


def pytest_runtest_setup(item):
    """Signatures are checked in quick tests, in those of all cells and in doctests; it costs an eighth."""
    everywhere = "quick" in item.keywords or "row" in getattr(getattr(item, "callspec", None), "params", {})
    jaxtyping.config.update(
        "jaxtyping_disable", not everywhere and not isinstance(item, pytest.DoctestItem)
    )


def pytest_runtest_teardown(item, nextitem):
    """Forget what was compiled, between files, before there is too much of it."""
    if nextitem is None or nextitem.path == item.path or not MEMORY_MAPS.exists():
        return
    if MEMORY_MAPS.read_bytes().count(b"\n") > MOST_MEMORY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Run the test in default float32, then in float64."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def float64():
    """Run the test with float64 switched on."""
    with jax.enable_x64(True):
        yield "float64"


@pytest.fixture
def as_users_run():
    """Without the run-time checks of shapes in signatures, which users do not have."""
    jaxtyping.config.update("jaxtyping_disable", True)
