"""What a job can say: one typed section a file, one explained line a setting."""
