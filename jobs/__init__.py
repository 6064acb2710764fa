"""Whole runs: their steps, their schedule, the process that runs them, and what is recorded and announced.

Single stages belong to the rooms of `pipeline`; commands and their output belong to `pipeline.cli`.

```
nightly, backfill, rooms, status    the steps of a run
schedule, lease, scheduler          when a job is due, and which process runs it
run, monitoring                     recording, metrics, notifications
runtime, workers                    the App of a run, in this process and in workers
```

Every step can be repeated at any time: its work is computed from the stores. A failed item is named in the result and
does not stop the others.
"""
