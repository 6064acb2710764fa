"""Settings: their types and defaults (`sections`, `prices`), and reading them from a file and the environment (`load`).

Validation that needs a store, a network or a clock does not belong here.
"""
