"""Errors, models, settings, retry, concurrency and logging, which every other room imports.

Code that depends on EnableX's API, on a kind of store or on one stage of the pipeline belongs to that room.
"""
