"""How well can a recurrent network learn to write? A character language model, trained and sampled.

    python -m experiments.char_lm                                    train on Python's standard library
    python -m experiments.char_lm train --corpus tiny_shakespeare    or another corpus, or any text file
    python -m experiments.char_lm sample --run DIR --prompt "def "   more samples; see sample --help
    python -m experiments.char_lm evaluate --run DIR --text FILE     nats and bits per character

The first command takes less than three minutes on two CPU cores, needs no network, and ends near 1.3 nats
per character on held-out files, with samples that look like Python.
"""
