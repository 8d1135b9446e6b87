"""A whole study from one file of settings, and the recipes that ship with the package."""
