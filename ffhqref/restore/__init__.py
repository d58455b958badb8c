"""A dataset or photographs, and a checkpoint -> restored pictures.

In: low-quality pictures with their references. Out: restored PNGs and run.json, which says how each was
made. Read `jobs` (what is to be restored, with which references), `run`, `record` (what is
finished), then `align` (faces in photographs that are not aligned, and pasting them back).
"""
