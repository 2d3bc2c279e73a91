"""`python -m spdf_keras` is the command `spdf-keras`."""

import sys

from spdf_keras.cli import main

if __name__ == "__main__":
    sys.exit(main())
