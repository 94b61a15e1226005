"""A should_stop callback for tests that interrupt a training."""


class StopAfter:
    """Returns True from its call number `limit` + 1 on, and counts its calls."""

    def __init__(self, limit: int = 10_000) -> None:
        self.num_calls, self.limit = 0, limit

    def __call__(self) -> bool:
        self.num_calls += 1
        return self.num_calls > self.limit
