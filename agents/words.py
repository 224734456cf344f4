"""Streaming word count: split the lines, send words to their owners, count them there."""

from streamapp import Batches, app
from streamapp.topics import text_lines, word_totals
from tables.words import word_counts, words


@app.batch_agent(text_lines)
async def split_lines(batches: Batches) -> None:
    """Send the words of each line on to whoever owns them."""
    async for batch in batches:
        for line in batch:
            for word in line.lower().split():
                words.add(word)


@app.batch_agent(words)
async def count_words(batches: Batches) -> None:
    """Count words, and publish the totals that have changed."""
    async for batch in batches:
        changed = set()
        for word, count in batch.items():
            word_counts[word] += count
            changed.add(word)
        for word in sorted(changed):
            await word_totals.send(key=word, value=word_counts[word])
