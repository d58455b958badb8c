"""Embeddings -> pairs and people: arrays in, arrays out. The only user of FAISS.

In: unit embeddings, a row a photo. Out: every pair below a distance, people as groups of rows, and which
distance suits a network. Read `search` (exact pairs), `grouping` (people), then `calibrate`.
"""
