"""What every room stands on: files, tables, recipes, pictures. No torch, no network, no networks.

In: bytes on disk. Out: checked tables, frozen dataclasses and uint8 RGB arrays, and files that are written
whole or not at all. Read `store` first (atomic writes, receipts, locks; `parts` names what is half-written),
then `tables` (every schema; `lists` for CSV files and names) and `recipe` (TOML -> dataclasses). As needed:
`images` (`formats` it reads, `jpeg` for cut files, `quiet` for what libraries print), `arrays`, `journal`,
`stream`, `sheets`, `terminal`.
"""
