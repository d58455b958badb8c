"""Photographs -> a reference dataset, stage by stage; each stage reads and writes files below one folder.

In: a folder of photographs and a recipe. Out: the published FFHQ-Ref tree with tables and receipts. Read the
stages in the order in which `build` calls them: `embed`, `cluster`, `split`, `references`, `verify`.
`crops` says which faces are cut out and how good they are, `neighbours` which pair is a valid reference,
`drawing` who can be drawn for val and test, `people` who was drawn before and is recognised, `suspects` what
deserves a look; `verdicts` is what people answered, `constraints` what `cluster` must obey of it, `given`
people who come from a list; `sheet` lays out targets beside their references.
"""
