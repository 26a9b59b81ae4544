"""`python -m luthier_server`: one serving process. The configuration is in LUTHIER_SERVER_CONFIG."""

import sys

from luthier_server.process import main

# Guarded: the engine's processes import this module again.
if __name__ == "__main__":
    sys.exit(main())
