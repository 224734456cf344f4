"""Error lines of a log, counted in hopping windows: by module, and in all."""

from streamapp import Batches, app
from streamapp.topics import log_lines
from tables.errors import ALL, error_counts, errors


@app.batch_agent(log_lines)
async def find_errors(batches: Batches) -> None:
    """Send each error to the owner of its module's count, and to the owner of the total."""
    async for batch in batches:
        for line in batch:
            if line.level == "error":
                errors.add(line.module)
                errors.add(ALL)


@app.batch_agent(errors)
async def count_errors(batches: Batches) -> None:
    """Add the partial counts to their windows, each at the event time that it has."""
    async for batch in batches:
        for module, count in batch.items():
            error_counts[module] += count
