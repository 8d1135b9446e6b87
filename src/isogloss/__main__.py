"""Run ``isogloss`` as ``python -m isogloss``."""

import sys

from isogloss.cli import main

sys.exit(main())
