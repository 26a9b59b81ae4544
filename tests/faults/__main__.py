"""The scorecard: `make faults`; its ARGS are the options here."""

import sys

if __name__ == "__main__":
    from faults.cli import main

    sys.exit(main())
