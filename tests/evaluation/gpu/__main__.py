"""``python -m tests.evaluation.gpu``: see ``checks``."""

import sys

from tests.evaluation.gpu.checks import main

sys.exit(main())
