"""What every room stands on: files, tables, recipes, pictures. No torch, no network, no networks.

In: bytes on disk. Out: checked tables, frozen dataclasses and uint8 RGB arrays, and files that are written
whole or not at all. Read `store` first (atomic writes, receipts, locks), then `tables` (every schema) and
`recipe` (TOML -> dataclasses); `images`, `formats`, `arrays`, `journal`, `stream`, `sheets` and `terminal` as
needed.
"""
