"""The embedded broker: Kafka's protocol in one process, for a laptop and for tests.

It is not for production: one node, no replication, no authentication.
"""

try:
    import kio as _kio  # noqa: F401
except ImportError as error:
    raise ImportError(
        "the embedded broker needs kio: pip install kio, or this package with the extra 'broker'"
    ) from error

from .broker import Broker
from .errors import BrokerError, DataDirectoryLocked, ErrorCode, JournalCorrupt
from .faults import Faults
from .state import BrokerConfig

__all__ = [
    "Broker",
    "BrokerConfig",
    "BrokerError",
    "DataDirectoryLocked",
    "ErrorCode",
    "Faults",
    "JournalCorrupt",
]
