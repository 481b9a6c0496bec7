"""Four host devices for every test, and float64 by choice, never by a global switch."""

import jax
import jaxtyping
import pytest

jax.config.update("jax_num_cpu_devices", 4)


def pytest_collection_modifyitems(items):
    for item in items:
        if "slow" not in item.keywords:
            item.add_marker(pytest.mark.quick)


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
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
