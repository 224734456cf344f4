"""Error lines in hopping windows: 30 seconds, every 10 (Spark's `countByWindow(30, 10)`)."""

from streamapp import Count, app
from streamapp.topics import error_windows

#: The key of the count over all modules.
ALL = "*"

#: Errors on their way to the owner of their module, and of the total: a record a pane and key.
errors = app.key_by("errors", aggregate=Count(), pane=10, key_type=str)

#: Module, or `ALL`, to its number of errors a window; an hour of windows stays readable.
error_counts = (
    app.BatchTable("error_counts", aggregate=Count(), key_type=str)
    .hopping(30, 10, expires=3600)
    .emit_updates(error_windows)
    .emit_final(error_windows)
)
