"""Words and machinery that know neither EnableX nor a store: errors, models, settings, retry, concurrency, logging.

Nothing of ours is imported here, and nothing that belongs to one stage of the pipeline lives here.
"""
