"""`python -m jobs`: the scheduler, as `postroom schedule`."""

import sys

from jobs.scheduler import main

sys.exit(main())
