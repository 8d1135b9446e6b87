"""The small multilingual Mixture-of-Experts model that ships with isogloss: its texts, its training, its files."""
