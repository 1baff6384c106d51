"""The runs that an answer is made of: read, chosen, and what they left behind."""
