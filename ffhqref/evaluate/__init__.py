"""Restored pictures and the truth -> scores, with intervals over people, and the tables of a paper.

In: a built dataset (or folders of targets, low-quality pictures and references) and a folder of pictures for
each method. Out: scores.parquet (a row a method, image and metric), failures.csv, summary.csv,
differences.csv, table.md and table.tex. Read `measures` (PSNR, SSIM) and `statistics` (means and intervals)
first, both arrays in and numbers out; then `cases` (what is compared with what), `views` (a picture -> its
embeddings), `scoring` (one pass over the files), `identity` (embeddings -> scores), `adapters`, `parsing` and
`external` (what other libraries compute) and `run`, which calls them in order; `summary`, `published` and
`curves` say it to people. `groups`, `demographics` (with `fairface`), `sweep` and `testset` stand alone.
"""
