"""What a run writes down and how it is read back.

rows.py is the record, a row for each round; tail.py reads it as it grows; checkpoint.py is the
state that a run resumes from; folder.py names the files.
"""
