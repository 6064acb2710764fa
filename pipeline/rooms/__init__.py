"""The room life cycle: fields, desired rooms, plan, apply, audit.

Requests to EnableX belong to `enablex.rooms`; what is typed and shown belongs to `cli`.
"""
