"""`python -m pgn`, which is also how `torchrun -m pgn train ...` starts every process."""

from pgn.cli import main

main()
