"""The page that a sweep's answer is read on: one file, nothing loaded from elsewhere."""
