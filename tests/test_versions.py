"""The compiler is part of what is tested: faults on CPU that rule out a jaxlib in pyproject.toml.

In a process of its own, compiled as users compile: conftest.py switches optimisations off.
"""

import json
import os
import subprocess
import sys

import pytest

PROBE = """
import json, time
import jax, numpy as np

def last_square(dtype, rows):
    points = np.zeros((rows, 3), dtype)
    points[:, 0] = np.arange(rows)
    square = lambda point: jax.numpy.sum((np.eye(3, dtype=dtype) @ point) ** 2)
    return float(np.asarray(jax.jit(jax.vmap(square))(points))[-1])

def seconds(width):
    xs = np.ones((20_000, width), "float32")
    run = jax.jit(lambda xs: jax.lax.scan(lambda carry, x: (carry + x, carry + x), xs[0], xs)[1])
    def once():
        start = time.perf_counter()
        run(xs).block_until_ready()
        return time.perf_counter() - start
    once()
    return min(once() for _ in range(3))

jax.config.update("jax_enable_x64", True)
squares = {"float64": last_square("float64", 16_385), "float32": last_square("float32", 32_769)}
print(json.dumps({**squares, "narrow": seconds(1), "wide": seconds(64)}))
"""


@pytest.fixture(scope="module")
def probe():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_sum_over_vmapped_matrix_vector_product(probe):
    """jax-ml/jax#39103: 266342400 and 1065369600 in jaxlib 0.10.2."""
    assert probe["float64"] == 16_384**2
    assert probe["float32"] == 32_768**2


def test_scan_with_narrow_outputs_takes_linear_time(probe):
    """jax-ml/jax#40101: in jaxlib 0.11.1 one number a step takes over ten times as long as 64."""
    assert probe["narrow"] < 5 * probe["wide"]
