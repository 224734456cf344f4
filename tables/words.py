"""How often each word was seen."""

from streamapp import Count, app

#: Words on their way to whoever counts them; partial counts of a batch travel, not words.
words = app.key_by("words", aggregate=Count(), key_type=str)

#: Word to count.
word_counts = app.BatchTable("word_counts", default=int, key_type=str, value_type=int)
