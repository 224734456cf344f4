"""From the outside world into Kafka: what a source says becomes records of a topic, exactly once.

Receivers share the `PositionedPublisher`, which commits records together with the position of their
source, and a base, which runs them again when they fail; they know nothing of the engine.
"""

from streamapp.receivers.connection import Connection
from streamapp.receivers.directory import DirectoryReceiver
from streamapp.receivers.file import FileReceiver, Progress, Summary
from streamapp.receivers.ownership import Ownership
from streamapp.receivers.publisher import DeadLetter, PositionedPublisher
from streamapp.receivers.receiver import Receiver, State, Status
from streamapp.receivers.replay import ReplayReceiver
from streamapp.receivers.sockets import ListenReceiver, SocketReceiver

__all__ = [
    "Connection",
    "DeadLetter",
    "DirectoryReceiver",
    "FileReceiver",
    "ListenReceiver",
    "Ownership",
    "PositionedPublisher",
    "Progress",
    "Receiver",
    "ReplayReceiver",
    "SocketReceiver",
    "State",
    "Status",
    "Summary",
]
