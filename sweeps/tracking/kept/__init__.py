"""What MLflow keeps of a sweep: its runs, artifacts, networks, wanted trials."""
