"""Figures and tables, from plain numbers: nothing here knows how a run is made.

curves.py and plots.py are the figures of runs and comparisons, plan_plots.py, selection_plot.py,
stay_plot.py and calibration_plot.py those of one thing each, sheets.py shows images. style.py is
what all figures share. tables.py prints, progress_bar.py is the bar of a terminal.
"""
