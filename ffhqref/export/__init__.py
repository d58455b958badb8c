"""A built dataset -> files in the form of who reads it: other restorers, and general loaders.

In: the dataset's folder and its photographs. Out: a folder that is the reader's whole input, with a journal
and a receipt. Read `options` (who reads, and what may be chosen), `contents` (what of the dataset is handed
on), `entries` (a file to be made), `stage` (the run), then a module for each family of readers: `published`,
`people`, `targets`, `faceme`, `hub`, `shards`, `records`.
"""
