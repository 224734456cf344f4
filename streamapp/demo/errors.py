"""What can go wrong with the demo."""

from streamapp.errors import StreamappError

__all__ = ["DemoError"]


class DemoError(StreamappError):
    """The demo cannot start or go on; the message says what to do."""
