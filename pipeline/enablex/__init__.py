"""EnableX's API and file host: requests, their replies, error codes, and the HTTP clients that send them.

Storing a reply belongs to `ingest` and `storage`, the meaning of its documents to `tables`, decisions to other rooms.
"""
