"""The small world's grammar: one lexicon file per language and the engine that fills its templates."""
