"""python -m orchestration.cli: the `csr` command."""

from orchestration.cli import main

main()
