"""Listed files into the vault before they expire: verified, with a manifest written last; and the audit of the vault.

Manifest format and store access belong to `storage`; the file host's protocol belongs to `enablex`.
"""
