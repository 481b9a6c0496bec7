"""Simulated weather at two places: cycles, fronts that one place sees first, and gaps.

Every hour t of six years, in °C, with f_k the time of front k, J_k its jump, and g(s) = exp(−s / 60 h)
for s ≥ 0, else 0::

    west_t = 10 − 9 cos(2π year) − 3 cos(2π (day − 1/8)) + Σ_k J_k g(t − f_k) + e_t
    east_t = west's cycles − 1 + Σ_k J_k g(t − f_k − d_k) + e′_t
    pressure_t = 1015 − Σ_k |J_k| exp(−|t − f_k + 6 h| / 9 h) + n_t

e, e′ are AR(1) noise. A front reaches the east d_k = 5 to 9 hours later, the weaker ones last; the pressure
falls before it, whatever the sign of its jump. So the east can be told from the west, and from the pressure
that the weather is about to change, but not in which direction.
"""

import numpy as np

from experiments.data.series import Clock, Series

HOURS = 6 * 365 * 24
BETWEEN = 60.0  # hours from front to front on average
JUMP = 4.0  # °C: standard deviation of a front's
LASTS, DIPS, AHEAD = 60.0, 9.0, 6.0  # hours: of a jump, of a fall in pressure, and how far it goes ahead
NOISE, KEPT = 0.35, 0.8  # °C: of every hour; and the part of the last hour's that stays
GAPS, GAP = 240, 8.0  # of each place's readings: how many, and how many hours on average


def simulated_weather() -> Series:
    """The temperature at both places, and the pressure; the same on every machine.

    >>> weather = simulated_weather()
    >>> weather.target_names, weather.targets.shape, weather.covariate_names
    (('west', 'east'), (52560, 2), ('pressure',))
    """
    random = np.random.default_rng(0)  # the data set, whatever the seed of a run
    hours = np.arange(HOURS)
    fronts = np.cumsum(random.exponential(BETWEEN, 2 * int(HOURS / BETWEEN)))
    fronts = fronts[fronts < HOURS]
    jumps = random.normal(0, JUMP, len(fronts))
    delays = 5 + 4 * np.exp(-abs(jumps) / JUMP)
    cycles = 10 - 9 * np.cos(2 * np.pi * hours / (365 * 24)) - 3 * np.cos(2 * np.pi * (hours / 24 - 1 / 8))
    pressure = np.full(HOURS, 1015.0)
    fronts_at = np.zeros((HOURS, 2))
    for front, jump, delay in zip(fronts, jumps, delays, strict=True):
        pressure -= abs(jump) * np.exp(-abs(hours - front + AHEAD) / DIPS)
        for place, since in enumerate((hours - front, hours - front - delay)):
            fronts_at[:, place] += jump * np.exp(-np.maximum(since, 0) / LASTS) * (since >= 0)
    noise = random.normal(0, NOISE, (HOURS, 2))
    for hour in range(1, HOURS):
        noise[hour] += KEPT * noise[hour - 1]
    targets = cycles[:, None] + [0.0, -1.0] + fronts_at + noise
    pressure += random.normal(0, 0.3, HOURS)
    for place in range(2):
        for start in random.integers(HOURS, size=GAPS):
            targets[start : start + random.geometric(1 / GAP), place] = np.nan
    clock = Clock(np.datetime64("2021-01-01", "s"), 3600, "seconds")
    return Series(clock, targets.round(2), pressure.round(2)[:, None], ("west", "east"), ("pressure",))
