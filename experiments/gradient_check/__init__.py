"""Are the gradients right? Every cell, every option, every method; and would a mistake be detected?

    python -m experiments.gradient_check            the whole study
    python -m experiments.gradient_check --quick    two cells, in under a minute

The first command takes under ten minutes on two CPU cores and needs no network. It ends with a table: the
largest relative error of each method (autodiff, hand-derived BPTT, loop, explicit terms, RTRL, complex
step) for each cell over all options, in float64: all below 1e-13, finite differences below 1e-6.

- Options: plain; ragged lengths with a zero; resets; saturated gates; remat; reverse; two layers stacked;
  bidirectional. Cells with noise have it under all of these, and once do without. Also forward against
  reverse mode (⟨Jv, w⟩ = ⟨v, Jᵀw⟩), and second order.
- Mutations: mistakes made mechanically, one at a time, in every hand-derived derivative and in the masked
  step. The comparison must find each, unless it changes nothing; beside it, what JAX's own
  ``jax.test_util.check_grads`` finds in reverse mode with its default tolerances.
- How the error of float32 and bfloat16 gradients grows with the length of the sequence, and how the error
  of a finite difference depends on its step where that of a complex step does not.
"""
