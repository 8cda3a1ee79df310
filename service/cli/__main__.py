"""`python -m service.cli`: the same as `oubli`."""

from service.cli.main import main

main()
