"""The demo: broker, receiver and worker as they are, on one machine, and a view of what they do.

Nothing is shortened for it. The embedded broker keeps its journal on disk, the file receiver
publishes a log exactly once, `faust -A streamapp worker` runs as a process of its own, and the view
knows only what it reads from Kafka, read committed. So all of it may be killed at any moment, and
the next start goes on.
"""
