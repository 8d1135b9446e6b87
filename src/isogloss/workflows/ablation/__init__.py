"""Bans families of experts and measures every language and task: what a family is needed for, and for what alone."""
