"""`python -m jobs`: same as `postroom schedule`."""

import sys

from jobs.scheduler import main

sys.exit(main())
