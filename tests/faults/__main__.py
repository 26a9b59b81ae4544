"""The scorecard: `make faults`, or one run again: `python -m faults --life NAME --rule JSON`."""

import sys

if __name__ == "__main__":
    from faults.cli import main

    sys.exit(main())
