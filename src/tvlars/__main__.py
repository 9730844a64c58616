"""``python -m tvlars`` is the command ``tvlars``."""

import sys

from tvlars.cli import main

sys.exit(main())
