"""What a page shows of runs: each view turns what is known of a run into plain JSON.

A view is a dict: `kind` names the function of assets/*.js that draws its `data`; `id`, `title`
and `text` (one sentence) are what a page needs around it. Arrays that may be large are packed
(pack.py). No view knows a page, a model or a world: what must be computed anew comes with the run
(runs.py).
"""
