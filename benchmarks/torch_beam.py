"""Batched beam search in torch over the attention decoder of ``benchmarks.beam``, written for speed.

Everything is a tensor from the first step to the last, a step is a handful of calls for all hypotheses of
all sentences at once, and the host is asked once a step, whether to stop.
"""

from typing import NamedTuple

import numpy as np
import torch

MINUS_INFINITY = float("-inf")


class Found(NamedTuple):
    """Hypotheses of every sentence, best first."""

    tokens: torch.Tensor  # (batch, beam, max_length)
    scores: torch.Tensor  # (batch, beam)
    lengths: torch.Tensor  # (batch, beam)


class Decoder(torch.nn.Module):
    """An LSTM that attends to a memory by dot products (Luong et al. 2015)."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        vocabulary, hidden = weights["embedding"].shape
        self.embedding = torch.nn.Embedding(vocabulary, hidden)
        self.cell = torch.nn.LSTMCell(hidden, hidden)
        self.combine = torch.nn.Linear(2 * hidden, hidden, bias=False)
        self.out = torch.nn.Linear(hidden, vocabulary)
        named = {
            "embedding.weight": weights["embedding"],
            "cell.weight_ih": weights["w_ih"].T,
            "cell.weight_hh": weights["w_hh"].T,
            "cell.bias_ih": weights["b"],
            "cell.bias_hh": 0 * weights["b"],
            "combine.weight": weights["w_combine"].T,
            "out.weight": weights["w_out"].T,
            "out.bias": weights["b_out"],
        }
        self.load_state_dict({name: torch.tensor(array) for name, array in named.items()})

    def forward(
        self, h: torch.Tensor, c: torch.Tensor, tokens: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One step of all hypotheses: h, c, logits (hypotheses, vocabulary)."""
        h, c = self.cell(self.embedding(tokens), (h, c))
        attention = torch.softmax(torch.bmm(memory, h.unsqueeze(-1)), dim=1)  # (hypotheses, source, 1)
        read = torch.bmm(memory.transpose(1, 2), attention).squeeze(-1)
        return h, c, self.out(torch.tanh(self.combine(torch.cat([h, read], dim=-1))))


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    memory: torch.Tensor,
    *,
    start: int,
    end: int,
    max_length: int,
    beam_size: int,
    length_penalty: float,
) -> Found:
    """The search that ``jaxrnn.decoding.beam_search`` describes; ``memory`` (batch, source, hidden)."""
    batch, _, hidden = memory.shape
    memory = memory.repeat_interleave(beam_size, dim=0)
    h = c = torch.zeros(batch * beam_size, hidden)
    first_lanes = torch.arange(batch).unsqueeze(-1) * beam_size
    tokens = torch.full((batch, beam_size), start)
    live = torch.full((batch, beam_size), MINUS_INFINITY)
    live[:, 0] = 0
    history = torch.full((batch, beam_size, max_length), end)
    found = Found(history.clone(), torch.full_like(live, MINUS_INFINITY), torch.zeros_like(tokens))
    penalties = ((5 + torch.arange(1, max_length + 1)) / 6) ** length_penalty
    for time in range(max_length):
        h, c, logits = decoder(h, c, tokens.flatten(), memory)
        total = live.unsqueeze(-1) + torch.log_softmax(logits, -1).view(batch, beam_size, -1)
        best, index = total.flatten(1).topk(2 * beam_size)
        parents, tokens = index // logits.shape[-1], index % logits.shape[-1]
        histories = history.gather(1, parents.unsqueeze(-1).expand(-1, -1, max_length))
        histories[:, :, time] = tokens

        ends = tokens == end
        leaf = (ends | (time == max_length - 1)) & (torch.arange(2 * beam_size) < beam_size)
        scores = torch.where(leaf, best / penalties[time], MINUS_INFINITY)
        new = Found(histories, scores, torch.full_like(tokens, time + 1))
        found = _best(Found(*(torch.cat(pair, dim=1) for pair in zip(found, new, strict=True))), beam_size)

        live, kept = torch.where(ends, MINUS_INFINITY, best).topk(beam_size)
        tokens, parents = tokens.gather(1, kept), parents.gather(1, kept)
        history = histories.gather(1, kept.unsqueeze(-1).expand(-1, -1, max_length))
        lanes = (first_lanes + parents).flatten()
        h, c = h.index_select(0, lanes), c.index_select(0, lanes)
        if not (live[:, 0] / penalties[-1] > found.scores[:, -1]).any():
            break
    return found


def _best(found: Found, count: int) -> Found:
    scores, kept = found.scores.topk(count)
    tokens = found.tokens.gather(1, kept.unsqueeze(-1).expand(-1, -1, found.tokens.shape[-1]))
    return Found(tokens, scores, found.lengths.gather(1, kept))
