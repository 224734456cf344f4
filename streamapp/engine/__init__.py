"""Batches in, checkpoints out."""

from streamapp.engine.agent import Batches
from streamapp.engine.app import App
from streamapp.engine.batch import Batch
from streamapp.engine.checkpoint import WindowRecord
from streamapp.engine.error_policy import ErrorPolicy, OnError
from streamapp.engine.key_by import KeyBy
from streamapp.engine.topic import Topic

__all__ = [
    "App",
    "Batch",
    "Batches",
    "ErrorPolicy",
    "KeyBy",
    "OnError",
    "Topic",
    "WindowRecord",
]
