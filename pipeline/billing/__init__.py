"""A month of tables as numbered exports: priced, corrected, and reconciled with an invoice.

Usage tables belong to `tables`; when a day is settled belongs to `ingest`.
"""
