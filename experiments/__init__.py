"""One script a question: ``python -m experiments.NAME``, from the repository root."""
