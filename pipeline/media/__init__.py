"""Copies listed files to the vault before they expire, verified and with a manifest written last; audits the vault.

The manifest format and store access belong in `storage`; the protocol of the file host belongs in `enablex`.
"""
