"""Pages about runs that are over or go on, and records sent to trackers.

build_report.py reads run folders, replay.py computes anew what the record leaves out, views/ turns
it into JSON, page.py writes the HTML file, figures.py the figures, trackers.py sends to trackers.
"""
