"""Templates of the cards that go to the Hub with models and data sets."""
