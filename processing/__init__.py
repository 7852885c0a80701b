"""What ships beside the weights to turn images and text into model inputs, and ids into captions."""
