"""Runs in a browser while they go on: a local, read-only web app over run folders.

serve.py opens it, app.py answers requests, watch.py looks at run folders, views.py makes what a
browser is given, list_file.py writes the list of runs as CSV. access.py says who may open it,
shares.py how much one client may ask.
"""
