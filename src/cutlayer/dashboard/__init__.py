"""Runs in a browser while they go on: a local, read-only web app over run folders.

serve.py opens it, app.py answers requests, watch.py watches run folders, views.py makes the views
for a browser. access.py says who may open it, shares.py how much one client may ask.
"""
