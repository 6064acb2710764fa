"""The life cycle of rooms: fields, the rooms file with desired rooms, plan, apply, audit.

Requests and replies of EnableX belong in `enablex.rooms`; commands and output belong in `cli`.
"""
