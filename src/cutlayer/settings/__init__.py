"""What a job can say: one typed section a file, one explained line a setting.

The text under a setting is its explanation, which `cutlayer settings` and docs/settings.md show
(explanations.py reads it). world.py and places.py are one section, method.py and allocation.py too;
section.py is what all share. To add a setting: its field here, where it is read, and, if not every
job reads it, a line in train/settings_read.py.
"""
