"""Where the wall time of a run goes."""

import time

import jax.monitoring

# What it is spent on; training is what remains.
PARTS = ("training", "compiling", "evaluating", "saving", "waiting_for_data", "lost_to_restarts")

_compiled = 0.0  # seconds, in this process


def _on_duration(event: str, duration_secs: float, **_: str | int) -> None:
    global _compiled
    if event.startswith("/jax/core/compile/"):
        _compiled += duration_secs


jax.monitoring.register_event_duration_secs_listener(_on_duration)


class Clock:
    """Charges time to parts: seconds by name, which a resumed run goes on with."""

    def __init__(self, spent: dict[str, float]) -> None:
        self.spent = spent
        self.now = time.monotonic()
        self._compiled = _compiled

    def charge(self, part: str) -> float:
        """Charge what has passed since the last time, compiling apart; returns the seconds, all of them."""
        before, compiled = self.now, self._compiled
        self.now, self._compiled = time.monotonic(), _compiled
        passed = self.now - before
        compiling = min(passed, self._compiled - compiled)
        for name, seconds in {part: passed - compiling, "compiling": compiling}.items():
            self.add(name, seconds)
        return passed

    def add(self, part: str, seconds: float) -> None:
        """Charge seconds that were measured elsewhere."""
        self.spent[part] = self.spent.get(part, 0.0) + seconds
