"""The rounds of a run, wherever its devices are: trained, measured, committed one by one."""
