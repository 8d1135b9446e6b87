"""A sweep: many candidate plans compared on dev, the best one confirmed on test."""
