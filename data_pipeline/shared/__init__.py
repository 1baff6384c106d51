"""What machines that share no folder have in common: made files and trials' folders, in a bucket."""
