"""Whole runs: what a night consists of, when a job is due, which process runs it, what is recorded and announced.

Stages belong to the rooms of `pipeline`; what is typed and shown belongs to `pipeline.cli`.

```
nightly, backfill, rooms, status    what a run does
schedule, lease, scheduler          when it is due, and which process runs it
run, monitoring                     how it is recorded, measured and announced
runtime, workers                    the App of a run, here and in other processes
```

Every step can be repeated at any time: the work is computed from the stores. A failed item is named in the outcome and
does not stop the others.
"""
