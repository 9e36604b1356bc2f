"""`python -m wanlab`: the command line."""

from wanlab.cli import main

main()
