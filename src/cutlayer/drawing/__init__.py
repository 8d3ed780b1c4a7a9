"""Figures and tables, from plain numbers: nothing here knows how a run is made."""
