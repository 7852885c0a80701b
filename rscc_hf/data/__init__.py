"""Data: one schema of a pair, synthetic scenes, caption text, vocabularies and augmentation."""
