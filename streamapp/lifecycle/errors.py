"""What the commands of an application's life refuse."""

from streamapp.errors import StreamappError

__all__ = ["LifecycleError"]


class LifecycleError(StreamappError):
    """A topology cannot be changed now, or not like this; the message says what to do first."""
