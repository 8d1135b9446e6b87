"""Tasks: questions with known answers, the same items in every language, and how each is scored."""
