"""A source's manifest -> verified files on disk. The only user of the network.

In: manifests/sources/*.toml. Out: files whose digests are right, and a ledger of them. Read `stage`, then
`sources` and `selection` (what is wanted), `transfer`, `parts`, `network` and `pages` (how it comes),
`archives`, `remote` and `unpack` (what is inside), `ledger` and `metadata` (what is known of it).
"""
