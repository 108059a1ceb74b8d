"""`python -m embedscope`, and what torchrun starts."""

import sys

from embedscope.cli import main

if __name__ == "__main__":
    sys.exit(main())
