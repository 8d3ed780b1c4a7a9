"""Pages about runs that are over or go on, and records sent to trackers.

build_report.py makes a report of run folders: read_runs.py reads them, recompute.py and replay.py
compute anew what the record leaves out, views/ turns it into JSON, page.py writes the HTML file,
figures.py draws the figures, paper_tables.py writes CSV and LaTeX, trackers.py sends to trackers.
"""
