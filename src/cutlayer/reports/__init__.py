"""Pages about runs that are over or go on, and records sent to trackers."""
