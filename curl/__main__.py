"""`python -m curl COMMAND ...`."""

import sys

from curl.command.main import run

if __name__ == "__main__":
    run(sys.argv[1:])
