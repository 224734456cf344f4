"""From the outside world into Kafka: what a source says becomes records of a topic, exactly once.

Receivers share the `PositionedPublisher`, which commits records together with the position of their
source; they know nothing of the engine.
"""

from streamapp.receivers.file import FileReceiver, Progress, Summary
from streamapp.receivers.publisher import DeadLetter, PositionedPublisher

__all__ = ["DeadLetter", "FileReceiver", "PositionedPublisher", "Progress", "Summary"]
