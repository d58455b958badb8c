"""Embeddings -> pairs and people: arrays in, arrays out. The only user of FAISS.

In: unit embeddings, a row a photo, and what is known of some pairs. Out: every pair below a distance, people
as groups of rows, what is doubtful, and which distance suits a network. Read `search` (exact pairs, how
similar strangers are), `people` (the grouping), which stands on `grouping` (similarities, components),
`linkage` and `links`; then `doubts` on `sameness`, and `calibrate`, whose last function alone touches files.
"""
