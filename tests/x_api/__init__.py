"""A fake of the X API v2, as unreliable as the real one, and a loop in which its time flies."""

from tests.x_api.faults import KINDS, Fault, scatter
from tests.x_api.loop import FastLoop, LoopClock
from tests.x_api.server import TOKEN, FakeX

__all__ = ["KINDS", "TOKEN", "FakeX", "FastLoop", "Fault", "LoopClock", "scatter"]
