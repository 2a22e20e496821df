"""`python -m stormbreak`: the command, wherever it is not on the path."""

import sys

from stormbreak.cli.main import main

sys.exit(main())
