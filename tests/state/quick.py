"""How long hypothesis may look: enough to find what a change breaks, little enough for every save."""

from hypothesis import HealthCheck, settings

__all__ = ["QUICK", "QUICK_MACHINE"]

QUICK = settings(max_examples=50, deadline=None)

#: For state machines on a store, whose steps write to disk.
QUICK_MACHINE = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
