"""Exports the tables of a month as numbered revisions with amounts and corrections; reconciles them with an invoice.

Usage tables belong in `tables`; when a day is settled belongs in `ingest`.
"""
