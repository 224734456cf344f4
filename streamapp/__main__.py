"""`python -m streamapp`: the same as the command `streamapp`."""

from streamapp.cli import main

main()
