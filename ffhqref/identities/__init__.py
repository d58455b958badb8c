"""Embeddings -> pairs and people: arrays in, arrays out. The only user of FAISS.

In: unit embeddings, a row a photo. Out: every pair below a distance, people as groups of rows, and which
distance suits a network. Read `grouping` (people), `search` (exact pairs, how similar strangers are), then
`calibrate`, whose last function alone touches files.
"""
