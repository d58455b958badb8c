"""A built dataset -> a page to look at, a list to correct it by, a card to hand it on with.

In: OUT, the folder of a built dataset, and its photographs. Out: OUT/report.html (one file, no network),
OUT/README.md, OUT/croissant.json and OUT/attribution.csv, and what `review` was told in OUT/verdicts.csv.

Read `facts` (all that is known of a dataset, read once), `doubts` (what deserves a look, the most useful
first), `answers` (what of it is settled), `figures` (SVG), `thumbnails`, `labels`, `scores`, `views` (facts
as the page shows them), `page` (the report), `attribution`, `card` and `croissant`; for `review`, `session`
(what an answer does) and `server` (who may ask).
"""
