"""What a run writes down and how it is read back.

rows.py is what is recorded of a round, row_lines.py the file of their lines; tail.py reads it as it
grows; checkpoint.py is the state that a run resumes from; folder.py names the files, find_runs.py
finds the folders.
"""
