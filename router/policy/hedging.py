"""Decides whether a job that runs is worth a second run beside the first, on a worker of normal speed.

The aim is the end of a batch, when a long job on a slow worker is all that others wait for. A job that is about to end
there is left alone.
"""

# A job that has taken longer than expected, or of which nothing is known, is expected to take so many times as long as
# it has taken: run times have long tails. With 3, a second run pays on workers that are slower than 1.5 times.
_OVERRUN = 3
# A second run must be expected to end so much earlier than the first: it comes up to a look (0.1 s) late, and costs a
# call of the scheduler.
LEAST_SAVING_MS = 200


def saving_ms(ran_ms: float, size_ms: float, speed: float, *, is_slow: bool) -> float:
    """Return how much earlier a second run would end than the first; 0 if the job is to have none.

    The job has run for `ran_ms` on a worker of `speed`: 1 is normal, and 0.33 takes three times as long. `size_ms` is
    how long the job is expected to take at normal speed; 0: that is not known. `is_slow` is the scheduler's rule.

    >>> [saving_ms(ran_ms, 4000, 0.25, is_slow=True) for ran_ms in (1000, 10_000, 15_000)]
    [11000.0, 2000.0, 0]
    >>> [saving_ms(ran_ms, 1000, 1, is_slow=False) for ran_ms in (2900, 3000)], saving_ms(90_000, 0, 1, is_slow=False)
    ([0, 200], 0)
    """
    done_ms = ran_ms * speed
    if not is_slow:
        # Most often the job itself is longer than others of its key, so it comes after those on slow workers.
        overruns = size_ms > 0 and done_ms >= _OVERRUN * size_ms and ran_ms >= LEAST_SAVING_MS
        return LEAST_SAVING_MS if overruns else 0
    whole_ms = size_ms if done_ms < size_ms else _OVERRUN * done_ms
    saved_ms = (whole_ms - done_ms) / speed - whole_ms
    return saved_ms if saved_ms >= LEAST_SAVING_MS else 0
