r"""What was there before recurrence? The next token from a window, a bag, n-grams, and recurrent networks.

    python -m experiments.baselines                              characters of the standard library
    python -m experiments.baselines --corpus war_and_peace       as Karpathy et al. 2015 split it
    python -m experiments.baselines --corpus brown               words, as Bengio et al. 2003 split them
    python -m experiments.baselines --corpus FILE --unit word    of any text

All networks have about the same number of parameters and, on a CPU, about the same time to train; the first
command takes about ten minutes on two CPU cores and needs no network.
"""
