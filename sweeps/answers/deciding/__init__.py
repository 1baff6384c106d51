"""From choices to a decision: what a person can choose, which choice is best, and what can be said of it."""
