"""A model whose logits depend on all tokens so far, for the tests of decoders; its trees by enumeration."""

import jax.numpy as jnp
import numpy as np

VOCABULARY, LANES, END = 5, 4, 2
_random = np.random.default_rng(0)
TABLE = _random.normal(size=(3, VOCABULARY, VOCABULARY)).astype(np.float32)
SHIFT = _random.normal(size=(VOCABULARY, VOCABULARY)).astype(np.float32)


def step(state, tokens, context=None):
    """Logits from a table by time and token, and from a memory of all tokens before."""
    logits = jnp.asarray(TABLE)[state["time"] % 3, tokens] + state["memory"]
    if context is not None:
        logits = logits + context["bias"]
    memory = 0.5 * state["memory"] + jnp.asarray(SHIFT)[tokens]
    return {"time": state["time"] + 1, "memory": memory}, logits


def state_of(lanes: int, seed: int = 1):
    random = np.random.default_rng(seed)
    memory = random.normal(size=(lanes, VOCABULARY)).astype(np.float32)
    return {"time": jnp.asarray(random.integers(0, 3, lanes)), "memory": jnp.asarray(memory)}


STARTS = jnp.array([0, 3, 1, 4])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def numpy_step(time: int, memory: np.ndarray, token: int) -> tuple[int, np.ndarray, np.ndarray]:
    """``step`` of one lane in float64: the next time and memory, and log-probabilities."""
    return time + 1, 0.5 * memory + SHIFT[token], log_softmax(TABLE[time % 3, token] + memory)


def sequences(state, lane: int, start: int, end: int | None, max_length: int) -> list[tuple[tuple, float]]:
    """All sequences of a lane that end, or are cut, with their log-probabilities."""

    def below(time, memory, token, tokens, log_p):
        if len(tokens) == max_length or tokens[-1:] == (end,):
            return [(tokens, log_p)]
        time, memory, row = numpy_step(time, memory, token)
        return [
            leaf
            for child in range(VOCABULARY)
            for leaf in below(time, memory, child, (*tokens, child), log_p + row[child])
        ]

    return below(int(state["time"][lane]), np.asarray(state["memory"][lane], np.float64), start, (), 0.0)
