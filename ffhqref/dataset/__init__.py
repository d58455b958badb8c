"""Photographs -> a reference dataset, stage by stage; each stage reads and writes files below one folder.

In: a folder of photographs and a recipe. Out: the published FFHQ-Ref tree with tables and receipts. Read the
stages in the order in which `build` calls them: `embed`, `cluster`, `split`, `references`, `verify`.
`neighbours` says which pair is a valid reference, `suspects` what deserves a look; `verdicts` is what people
answered, `constraints` what `cluster` must obey of it, `given` people who come from a list; `sheet` lays out
targets beside their references.
"""
