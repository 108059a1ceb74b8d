"""`python -m embedscope`, and what torchrun starts."""

import os
import sys

from embedscope.cli import main

if __name__ == "__main__":
    code = main()
    if "WORLD_SIZE" in os.environ:
        # All is written, and the group is left. About one process in ten of torch 2.13 aborts while it takes itself down after
        # that ("terminate called without an active exception"), which torchrun takes for a failed run.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
