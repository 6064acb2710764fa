"""Metrics, notifications and the webhook of runs. The steps of runs belong to the other modules of `jobs`."""
