"""The life of an application between its runs: what is reset or moved while none of its workers runs.

Everything here refuses while a topology's group has members, fences each task before it changes
anything of it, and can be run again after it was interrupted.
"""

from streamapp.lifecycle.beginning import Beginning
from streamapp.lifecycle.errors import LifecycleError
from streamapp.lifecycle.reset import Reset, TopologyReset
from streamapp.lifecycle.to_checkpoint import ResetToCheckpoint

__all__ = ["Beginning", "LifecycleError", "Reset", "ResetToCheckpoint", "TopologyReset"]
