"""Measurements of this project against others, in one run on one machine: `python -m bench`."""
