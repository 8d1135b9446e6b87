"""Lets ``python -m isogloss`` stand for ``isogloss``."""

import sys

from isogloss.cli import main

sys.exit(main())
