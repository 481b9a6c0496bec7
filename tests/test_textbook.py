"""Two worked examples of the textbooks, with every number computed by hand beside the code."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn.data.text import Vocabulary
from jaxrnn.decoding.sampling import greedy
from jaxrnn.models.language_model import LanguageModel
from jaxrnn.models.losses import cross_entropy
from jaxrnn.training.state import init_state
from jaxrnn.training.step import truncated_step


@pytest.mark.slow
def test_hello():
    """Karpathy's "hello": over h, e, l, o the next letter depends on more than the last (l → l, l → o)."""
    vocabulary = Vocabulary(("h", "e", "l", "o"))
    ids = jnp.asarray(vocabulary.encode("hello"))
    model = LanguageModel(vocabulary_size=4, cells=[jaxrnn.Elman(hidden_size=3)])
    optimizer = optax.adam(0.1)

    def loss(params, carry, word, key):
        _, logits = model.apply(params, word[:-1])
        nats, count = cross_entropy(logits, word[1:])
        return nats / count, carry

    state = init_state(model.init(jax.random.key(0)), optimizer, (), jax.random.key(0))
    step = truncated_step(loss, optimizer)
    losses = []
    for _ in range(200):
        state, metrics = step(state, ids)
        losses.append(float(metrics.loss))
    assert losses[0] == pytest.approx(math.log(4), abs=0.7)  # at first a guess among four
    _, logits = model.apply(state.params, ids[:-1])
    probabilities = jax.nn.softmax(logits)
    assert float(jnp.min(probabilities[jnp.arange(4), ids[1:]])) > 0.99
    decode = jax.tree_util.Partial(model.step, state.params)
    written = greedy(decode, model.initial_carry((1,)), start=ids[0], max_length=4)
    assert vocabulary.decode(written.tokens[0]) == "ello"


def test_two_token_encoder():
    """ "I", "Go" → one vector: embedding size 1, hidden size 2, tanh, every state by hand.

    Embeddings: I = 1, Go = 2. W_ih = [0.5 −1], W_hh = [[1 0] [−0.5 2]], b = [0 0.25], h_0 = [0 0].

        z_1 = 1·[0.5 −1] + [0 0]               + [0 0.25] = [0.5 −0.75]
        h_1 = tanh(z_1)                                   = [0.46211716 −0.63514895]
        z_2 = 2·[0.5 −1] + h_1 W_hh            + [0 0.25]
            h_1 W_hh = [0.46211716·1 + −0.63514895·−0.5, −0.63514895·2] = [0.77969163 −1.27029791]
            = [1.77969163 −3.02029791]
        h_2 = tanh(z_2)                                   = [0.94466198 −0.99525102]
    """
    embedding = jnp.array([[1.0], [2.0]])  # I, Go
    params = jaxrnn.ElmanParams(
        w_ih=jnp.array([[0.5, -1.0]]),
        w_hh=jnp.array([[1.0, 0.0], [-0.5, 2.0]]),
        b=jnp.array([0.0, 0.25]),
    )
    code, states = jaxrnn.unroll(jaxrnn.Elman(hidden_size=2), params, embedding[jnp.array([0, 1])])
    h_1 = [math.tanh(0.5), math.tanh(-0.75)]
    h_2 = [math.tanh(1.0 + h_1[0] - 0.5 * h_1[1]), math.tanh(-2.0 + 2 * h_1[1] + 0.25)]
    np.testing.assert_allclose(states, [h_1, h_2], rtol=1e-6)
    np.testing.assert_allclose(states, [[0.46211716, -0.63514895], [0.94466198, -0.99525102]], rtol=1e-6)
    np.testing.assert_array_equal(code.h, states[-1])
