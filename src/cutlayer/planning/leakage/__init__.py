"""What an audit found of each cut, number of tokens and bits: the table, kept and found again.

record.py is the table and its file, floor.py what `auto` reads of it. The attacks that fill it are
in privacy/.
"""
