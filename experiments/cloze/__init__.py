r"""A word for a blank: how many bits is the context on its right worth?

    python -m experiments.cloze                           sentences of the library's documentation
    python -m experiments.cloze --compare                 read from the left, the right, and both
    python -m experiments.cloze --data tatoeba            everyday sentences
    python -m experiments.cloze --data FILE               any text
    python -m experiments.cloze fill --run DIR < FILE     words for every ___, with their probabilities
    python -m experiments.cloze evaluate --run DIR --data FILE

The first command takes three minutes on two CPU cores and needs no network. A network that reads forward
predicts each word from those before it, one that reads backward from those after it; the one that reads
both ways has fewer units for each, so that all three have as many parameters. "This is a ___ which can fly
with 12 people" needs what stands on the right.
"""
